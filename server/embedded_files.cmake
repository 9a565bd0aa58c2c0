# pnf_embed_files(FILE.cpp): makes the source of the files that the program sends, or holds a gallery's tables against.
function(pnf_embed_files output)
  set(server ${CMAKE_CURRENT_FUNCTION_LIST_DIR})
  set(page ${server}/web/index.html)
  set(openapi ${server}/openapi.json)
  set(gallery ${server}/../pocketnet_fast/gallery/schema.sql)
  set(script ${server}/embed_files.cmake)
  add_custom_command(
    OUTPUT ${output}
    COMMAND ${CMAKE_COMMAND} -DOUTPUT=${output} -DPAGE=${page} -DOPENAPI=${openapi} -DGALLERY=${gallery} -P ${script}
    DEPENDS ${page} ${openapi} ${gallery} ${script}
    VERBATIM)
endfunction()
