# A bridge for node-gyp: compiles nothing itself, runs the CMake build and puts the result where
# node-gyp's callers look. Left out of the published package (package.json "files", "gypfile":
# false): npm would otherwise run node-gyp at every install.
{
  "targets": [
    {
      "target_name": "fuselm",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake",
          "inputs": ["CMakeLists.txt", "scripts/gyp-bridge.mjs"],
          "outputs": ["<(PRODUCT_DIR)/fuselm.node"],
          "action": ["node", "scripts/gyp-bridge.mjs", "<(PRODUCT_DIR)"],
          "message": "building fuselm.node with CMake"
        }
      ]
    }
  ]
}
