#include "native/core/signature.h"

#include <set>

#include "native/core/error.h"

namespace fuselm {
namespace {

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Signature Parse() {
    Signature s;
    s.op = Name(/*dots=*/true);
    List(s, false);
    if (Accept("->")) List(s, true);
    if (Accept("[")) {
      do {
        s.attributes.push_back(Unique(Name(false)));
      } while (Accept(","));
      Expect("]");
    }
    Skip();
    if (at_ != text_.size()) Fail("the end");
    return s;
  }

 private:
  void List(Signature& s, bool output) {
    Expect("(");
    if (Accept(")")) return;
    do {
      if (Accept("...")) {
        if (!s.group.empty()) Fail("one repeated group");
        Expect("(");
        do {
          s.group.push_back(Arg(output));
        } while (Accept(","));
        Expect(")");
        break;  // a group is last
      }
      s.fixed.push_back(Arg(output));
    } while (Accept(","));
    Expect(")");
  }

  SignatureArg Arg(bool output) {
    SignatureArg arg;
    arg.name = Unique(Name(false));
    arg.output = output;
    for (;;) {
      if (!arg.optional && Accept("?")) {
        arg.optional = true;
      } else if (!arg.in_place && !output && Accept("!")) {
        arg.in_place = true;
      } else {
        return arg;
      }
    }
  }

  std::string Unique(std::string name) {
    if (!names_.insert(name).second) Fail("a new name");
    return name;
  }

  std::string Name(bool dots) {
    Skip();
    const size_t begin = at_;
    const auto letter = [&](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
             (at_ > begin && ((c >= '0' && c <= '9') || (dots && c == '.')));
    };
    while (at_ < text_.size() && letter(text_[at_])) ++at_;
    if (at_ == begin) Fail("a name");
    return std::string(text_.substr(begin, at_ - begin));
  }

  void Skip() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
  }
  bool Accept(std::string_view token) {
    Skip();
    if (text_.substr(at_, token.size()) != token) return false;
    at_ += token.size();
    return true;
  }
  void Expect(std::string_view token) {
    if (!Accept(token)) Fail("'" + std::string(token) + "'");
  }
  [[noreturn]] void Fail(const std::string& expected) const {
    throw Error(ErrorCode::kConfig, "kernel signature '" + std::string(text_) + "': expected " +
                                        expected + " at character " + std::to_string(at_));
  }

  std::string_view text_;
  size_t at_ = 0;
  std::set<std::string> names_;
};

}  // namespace

Signature ParseSignature(std::string_view text) { return Parser(text).Parse(); }

}  // namespace fuselm
