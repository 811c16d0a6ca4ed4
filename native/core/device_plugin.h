/* The C interface between the addon and a device plugin (libfuselm_cuda.so). Plain C data only, so
 * that the two may be built by different compilers: no exception, C++ type or allocation crosses.
 *
 * A plugin exports one symbol, fuselm_device_plugin. Every function that returns int returns 0 or a
 * code of native/core/error.h, and then last_error() says what happened, on the calling thread.
 */
#ifndef FUSELM_NATIVE_CORE_DEVICE_PLUGIN_H_
#define FUSELM_NATIVE_CORE_DEVICE_PLUGIN_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised with every change of this file; a plugin serves exactly one version. */
#define FUSELM_DEVICE_PLUGIN_ABI 4u
#define FUSELM_DEVICE_PLUGIN_SYMBOL "fuselm_device_plugin"
#define FUSELM_PLUGIN_MAX_RANK 8

typedef struct FuselmDeviceInfo {
  char name[256];
  int32_t compute_major, compute_minor;
  int32_t multiprocessors;
  int64_t memory_bytes; /* of the device, all of it */
} FuselmDeviceInfo;

/* A tensor argument; fuselm::View with a fixed layout. Strides in elements; dtype as in dtype.h. */
typedef struct FuselmTensor {
  void* data;
  int32_t dtype;
  int32_t rank;
  int64_t shape[FUSELM_PLUGIN_MAX_RANK];
  int64_t stride[FUSELM_PLUGIN_MAX_RANK];
} FuselmTensor;

typedef struct FuselmPluginKernel {
  const char* signature;
  uint32_t dtypes; /* Mask() of the dtypes taken for the first floating argument */
  int32_t transactional;
} FuselmPluginKernel;

/* Where a launcher takes device memory for the length of its command, in order with the queue's
 * work: 256-byte aligned, uninitialised. Null when there is none. */
typedef struct FuselmWorkspace {
  void* context;
  void* (*take)(void* context, int64_t bytes);
} FuselmWorkspace;

typedef struct FuselmPluginQueue FuselmPluginQueue;
typedef struct FuselmPluginFence FuselmPluginFence;

typedef struct FuselmDevicePlugin {
  uint32_t abi;
  const char* name;  /* "cuda" */
  const char* build; /* toolkit and targets, for reports */

  const char* (*last_error)(void);

  /* The library that multiplies matrices, for reports: its version, or why the plugin's own
   * products serve instead. */
  const char* (*matrix_library)(void);

  /* Usable devices. With none, writes one sentence into why (no driver, driver too old, no GPU). */
  int32_t (*device_count)(char* why, size_t why_bytes);
  int (*device_info)(int32_t device, FuselmDeviceInfo* out);
  /* What is free of the device's memory now, whoever holds the rest. */
  int (*memory_info)(int32_t device, int64_t* free_bytes, int64_t* total_bytes);

  int (*alloc)(int32_t device, int64_t bytes, void** out);
  int (*free)(int32_t device, void* memory);

  /* A stream; a larger number runs first, clamped to what the device has. */
  int (*queue_create)(int32_t device, int32_t priority, FuselmPluginQueue** out);
  int (*queue_destroy)(FuselmPluginQueue* queue); /* waits for its work */

  /* In order with the queue's other work. Host memory may be pageable: copies pass through pinned
   * staging. `from` is free for reuse on return; `to` is written when a later fence is done. */
  int (*copy_to_device)(FuselmPluginQueue* queue, void* to, const void* from, int64_t bytes);
  int (*copy_to_host)(FuselmPluginQueue* queue, void* to, const void* from, int64_t bytes);
  int (*fill)(FuselmPluginQueue* queue, void* to, int32_t byte, int64_t bytes);

  int (*fence_create)(int32_t device, FuselmPluginFence** out);
  int (*fence_destroy)(FuselmPluginFence* fence);
  int (*fence_record)(FuselmPluginFence* fence, FuselmPluginQueue* queue);
  int (*fence_done)(FuselmPluginFence* fence,
                    int32_t* done);            /* also reports what failed before it */
  int (*fence_wait)(FuselmPluginFence* fence); /* blocks the calling thread */
  int (*queue_wait)(FuselmPluginQueue* queue, FuselmPluginFence* fence); /* on the device */

  int32_t kernel_count;
  const FuselmPluginKernel* kernels;
  /* Enqueues kernels[kernel]. Tensors in the order of the signature, absent ones with null data. */
  int (*launch)(FuselmPluginQueue* queue, int32_t kernel, const FuselmTensor* tensors,
                int32_t tensor_count, const double* attributes, int32_t attribute_count,
                const FuselmWorkspace* workspace);
} FuselmDevicePlugin;

/* Null when the plugin does not serve this version of the interface. */
typedef const FuselmDevicePlugin* (*FuselmDevicePluginFn)(uint32_t abi);

#ifdef __cplusplus
}
#endif

#endif /* FUSELM_NATIVE_CORE_DEVICE_PLUGIN_H_ */
