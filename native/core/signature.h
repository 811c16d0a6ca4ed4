// Kernel signatures, parsed: which tensor of a record is which argument, and who is written.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace fuselm {

struct SignatureArg {
  std::string name;
  bool optional = false;  // `?`: may be absent
  bool in_place = false;  // `!`: read and written
  bool output = false;    // written, never read
  bool written() const { return in_place || output; }
};

// `op(inputs) -> (outputs) [attributes]`; the arrow part and the attributes may be missing. A last
// `...(group)` in the inputs or outputs repeats; its tensors come after all others in a record.
struct Signature {
  std::string op;
  std::vector<SignatureArg> fixed;  // inputs, then outputs
  std::vector<SignatureArg> group;
  std::vector<std::string> attributes;

  bool Fits(size_t tensors) const {
    if (tensors < fixed.size()) return false;
    const size_t rest = tensors - fixed.size();
    return group.empty() ? rest == 0 : rest % group.size() == 0;
  }
  // Precondition: Fits(n) for some n > i.
  const SignatureArg& arg(size_t i) const {
    return i < fixed.size() ? fixed[i] : group[(i - fixed.size()) % group.size()];
  }
};

// Throws Error(kConfig) naming the signature and the place.
Signature ParseSignature(std::string_view text);

}  // namespace fuselm
