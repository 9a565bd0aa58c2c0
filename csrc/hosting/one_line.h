// What torch's errors say, without their tracebacks.
#pragma once
#include <exception>
#include <string>

namespace pocketnet::hosting {

// The one line of an error that says what happened; of one that is not torch's, its first line. What goes wrong inside a
// TorchScript module, torch's own errors too, arrives as std::runtime_error with the operator's message at the end of a
// traceback; an operator that is called directly throws c10::Error, whose message is followed by one.
std::string one_line(const std::exception& error);

}  // namespace pocketnet::hosting
