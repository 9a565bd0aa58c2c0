/* Whether two photos show the same person, in C. Photos are binary PPM files, as `djpeg` and ImageMagick write them.
 *
 *   verify faces.pnf one.ppm other.ppm */
#include <pocketnet.h>
#include <stdio.h>
#include <stdlib.h>

/* Reads 8-bit RGB; the caller frees image->pixels. Returns 0 if it is no such file. */
static int read_ppm(const char* path, pocketnet_image* image) {
  FILE* file = fopen(path, "rb");
  unsigned width, height, most;
  int read = 0;
  *image = (pocketnet_image){0};
  if (file == NULL) return 0;
  if (fscanf(file, "P6 %5u %5u %3u", &width, &height, &most) == 3 && most == 255 && width > 0 && height > 0 &&
      fgetc(file) != EOF) {
    const size_t bytes = (size_t)3 * width * height;
    unsigned char* pixels = malloc(bytes);
    if (pixels != NULL && fread(pixels, 1, bytes, file) == bytes) {
      image->pixels = pixels;
      image->width = width;
      image->height = height;
      image->format = POCKETNET_RGB;
      read = 1;
    } else {
      free(pixels);
    }
  }
  fclose(file);
  return read;
}

static int failed(const char* what) {
  fprintf(stderr, "%s: %s\n", what, pocketnet_message());
  return 2;
}

int main(int argc, char** argv) {
  pocketnet_model* model = NULL;
  pocketnet_context* context = NULL;
  pocketnet_info info = {.size = sizeof info};
  pocketnet_context_options options = {.size = sizeof options};
  float* embeddings = NULL;
  double cosine = 0, threshold = 0, rate = 0;
  int status = 2;
  if (argc != 4) {
    fprintf(stderr, "usage: %s faces.pnf one.ppm other.ppm\n", argv[0]);
    return 2;
  }
  if (pocketnet_open(argv[1], NULL, &model) != POCKETNET_OK) return failed(argv[1]);
  if (pocketnet_query(model, &info) != POCKETNET_OK ||
      pocketnet_threshold(model, info.default_threshold, &threshold, &rate) != POCKETNET_OK ||
      pocketnet_context_create(model, &options, &context) != POCKETNET_OK) {
    status = failed(argv[1]);
    goto end;
  }
  /* The most prominent face of each photo, one embedding behind the other. */
  embeddings = malloc(2 * info.embedding_dim * sizeof *embeddings);
  if (embeddings == NULL) goto end;
  for (int i = 0; i < 2; ++i) {
    pocketnet_face faces[1];
    pocketnet_image photo;
    size_t found = 0;
    if (!read_ppm(argv[2 + i], &photo)) {
      fprintf(stderr, "%s: not a binary PPM file of 8 bits\n", argv[2 + i]);
      goto end;
    }
    const pocketnet_status analyzed =
        pocketnet_analyze(context, &photo, faces, embeddings + i * info.embedding_dim, 1, &found);
    free((void*)photo.pixels);
    if (analyzed != POCKETNET_OK) {
      status = failed(argv[2 + i]);
      goto end;
    }
    if (found == 0) {
      fprintf(stderr, "%s: no face\n", argv[2 + i]);
      goto end;
    }
    printf("%s: %zu face%s, the first at %.0f, %.0f, quality %.2f\n", argv[2 + i], found, found == 1 ? "" : "s",
           faces[0].box[0], faces[0].box[1], faces[0].quality);
  }
  if (pocketnet_compare(embeddings, embeddings + info.embedding_dim, info.embedding_dim, &cosine) != POCKETNET_OK) {
    status = failed("compare");
    goto end;
  }
  status = cosine >= threshold ? 0 : 1;
  printf("cosine %.4f, %s at %.4f (false accept rate %g)\n", cosine,
         status == 0 ? "the same person" : "different people", threshold, rate);
end:
  free(embeddings);
  pocketnet_context_destroy(context);
  pocketnet_close(model);
  return status;
}
