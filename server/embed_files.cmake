# cmake -DOUTPUT=FILE.cpp -DPAGE=FILE -DOPENAPI=FILE -DGALLERY=FILE -P embed_files.cmake
set(text "#include \"embedded_files.h\"\n\nnamespace pocketnet::server::embedded {\nnamespace {\n")
foreach(file PAGE OPENAPI GALLERY)
  file(READ ${${file}} hex HEX)
  string(LENGTH "${hex}" digits)
  math(EXPR ${file}_SIZE "${digits} / 2")
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
  string(APPEND text "const unsigned char k${file}[] = {${bytes}};\n")
endforeach()
string(APPEND text "}  // namespace\n"
  "const std::string_view kPage{reinterpret_cast<const char*>(kPAGE), ${PAGE_SIZE}};\n"
  "const std::string_view kOpenApi{reinterpret_cast<const char*>(kOPENAPI), ${OPENAPI_SIZE}};\n"
  "const std::string_view kGallerySchema{reinterpret_cast<const char*>(kGALLERY), ${GALLERY_SIZE}};\n"
  "}  // namespace pocketnet::server::embedded\n")
file(WRITE ${OUTPUT} "${text}")
