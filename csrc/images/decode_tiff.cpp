#include <tiffio.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>

#include "images/decoders.h"

namespace pocketnet::images {
namespace {

struct Source {
  View data;
  toff_t at = 0;
};

Source& source_of(thandle_t handle) { return *static_cast<Source*>(handle); }

tmsize_t read(thandle_t handle, void* out, tmsize_t size) {
  Source& source = source_of(handle);
  const toff_t left = source.at < source.data.size() ? source.data.size() - source.at : 0;
  const auto taken = static_cast<tmsize_t>(std::min<toff_t>(left, static_cast<toff_t>(size)));
  std::memcpy(out, source.data.data() + (taken > 0 ? source.at : 0), static_cast<std::size_t>(taken));
  source.at += static_cast<toff_t>(taken);
  return taken;
}

tmsize_t write(thandle_t, void*, tmsize_t) { return 0; }

toff_t seek(thandle_t handle, toff_t offset, int whence) {
  Source& source = source_of(handle);
  const toff_t base = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? source.at : source.data.size();
  return source.at = base + offset;
}

int close(thandle_t) { return 0; }

toff_t size(thandle_t handle) { return source_of(handle).data.size(); }

// The handlers are the whole process's, so they are set once, whatever other threads read.
void silence() {
  static std::once_flag done;
  std::call_once(done, [] {
    TIFFSetErrorHandler(nullptr);
    TIFFSetWarningHandler(nullptr);
  });
}

}  // namespace

Pixels decode_tiff(View file, const ImageHeader& header) {
  silence();
  Source source = {file};
  const std::unique_ptr<TIFF, decltype(&TIFFClose)> tiff(
      TIFFClientOpen("image", "rm", &source, read, write, seek, close, size, nullptr, nullptr), TIFFClose);
  if (!tiff) throw Damaged("the TIFF's directory is broken");
  Pixels pixels(header, 4);
  // libtiff multiplies the colours by an alpha of kind 2; those of kind 1 are stored so.
  pixels.premultiplied = header.extra == 1 || header.extra == 2;
  const auto raster = std::make_unique_for_overwrite<std::uint32_t[]>(pixels.count());
  // Of its own accord it would turn the picture, and half way only.
  TIFFSetField(tiff.get(), TIFFTAG_ORIENTATION, ORIENTATION_TOPLEFT);
  if (TIFFReadRGBAImageOriented(tiff.get(), static_cast<std::uint32_t>(pixels.width),
                                static_cast<std::uint32_t>(pixels.height), raster.get(), ORIENTATION_TOPLEFT, 1) == 0) {
    throw Damaged("the TIFF's picture is cut or broken");
  }
  for (std::size_t i = 0; i < pixels.count(); ++i) {
    const std::uint32_t value = raster[i];
    const std::uint8_t channels[] = {static_cast<std::uint8_t>(TIFFGetR(value)),
                                     static_cast<std::uint8_t>(TIFFGetG(value)),
                                     static_cast<std::uint8_t>(TIFFGetB(value)),
                                     static_cast<std::uint8_t>(header.extra == 0 ? 255 : TIFFGetA(value))};
    std::copy(channels, channels + 4, pixels.values.get() + 4 * i);
  }
  return pixels;
}

}  // namespace pocketnet::images
