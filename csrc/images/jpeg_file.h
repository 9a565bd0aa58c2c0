// JPEG files: what is wrong with them and what viewers forgive. The Python package has the same rules in
// data/jpeg_file.py.
#pragma once
#include "images/parsing.h"

namespace pocketnet::images {

// A JPEG without what decoding does not need.
struct JpegFile {
  Bytes data;  // from start to end marker: tables, frame, scans
  int orientation = 1;
  int components = 0;  // 1 grey, 3 colour, 4 CMYK or YCCK
};

// Passes over bytes between segments and after the end marker, and supplies a missing end marker if all scans are there.
JpegFile check_jpeg(View file);

}  // namespace pocketnet::images
