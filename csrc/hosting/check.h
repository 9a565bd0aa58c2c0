// Whether a file gives here what it gave where it was written: a processor, a library or a file that is not as it should be
// shows in the cosine of the two embeddings.
#pragma once
#include "hosting/check_record.h"

namespace pocketnet::hosting {

class ExportedNetwork;

// The cosine of the embedding that the network gives for the check's picture with the one that the check states. Throws
// std::runtime_error if the file carries no check, or if it finds another number of faces than one.
double check_cosine(ExportedNetwork& network);

}  // namespace pocketnet::hosting
