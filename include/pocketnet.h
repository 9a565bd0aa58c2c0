/* PocketNet without Python or LibTorch: faces of photos, and embeddings of faces, from one .pnf file.
 *
 *   pocketnet_model* model;
 *   if (pocketnet_open("faces.pnf", NULL, &model) != POCKETNET_OK) return puts(pocketnet_message());
 *   pocketnet_context* context;
 *   pocketnet_context_create(model, NULL, &context);
 *   pocketnet_analyze(context, &photo, faces, embeddings, 16, &found);
 *
 * `pocketnet export -o faces.pnf --photos` writes such a file, and without --photos one that takes aligned crops only.
 *
 * A model does not change after it was opened, and any number of threads may use it. A context belongs to one thread at a
 * time; calls with it take no memory but what it was created with, start no thread, print nothing and end no process.
 * Embeddings are the same whatever the number of contexts; those of other instruction sets differ by rounding.
 *
 * Structures that begin with `size` may grow in later versions: set it to sizeof the structure; members that are 0 have
 * their defaults. Options of a smaller size than those of version 1.0 are refused. The others stay as they are. */
#ifndef POCKETNET_H
#define POCKETNET_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define POCKETNET_API
#else
#define POCKETNET_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Of this header. pocketnet_version() is the library's; the two agree in the first number. */
#define POCKETNET_VERSION_MAJOR 1
#define POCKETNET_VERSION_MINOR 0

typedef enum pocketnet_status {
  POCKETNET_OK = 0,
  POCKETNET_INVALID_ARGUMENT = 1, /* a call that is wrong whatever the file */
  POCKETNET_IO = 2,               /* a file that cannot be read */
  POCKETNET_BAD_FILE = 3,         /* no .pnf file, or a damaged one */
  POCKETNET_UNSUPPORTED = 4,      /* a version, an instruction set or a task that is not there */
  POCKETNET_OUT_OF_MEMORY = 5,
  POCKETNET_LIMIT = 6, /* more than the limits allow */
  POCKETNET_INTERNAL = 7
} pocketnet_status;

typedef struct pocketnet_model pocketnet_model;
typedef struct pocketnet_context pocketnet_context;

/* What went wrong in this thread's last call that did not return POCKETNET_OK: one line, valid until its next call. */
POCKETNET_API const char* pocketnet_message(void);

/* 100 * major + minor. */
POCKETNET_API uint32_t pocketnet_version(void);

typedef struct pocketnet_open_options {
  size_t size;
  const char* isa;          /* NULL: the best that the processor has; "scalar", "avx2", "avx512", "neon", ... */
  int unverified;           /* 1: do not compare the file with its SHA-256, which takes some milliseconds */
  size_t max_file_bytes;    /* 0: 256 MiB */
  size_t max_working_bytes; /* of a context but for photos' pixels; 0: 512 MiB */
  uint32_t max_side;        /* of crops, in pixels; 0: 512 */
  uint32_t max_steps;       /* of each network; 0: 4096 */
} pocketnet_open_options;

/* The file is mapped, so it must not be changed while the model is open; replacing it by a rename is fine. Options may be
 * NULL. */
POCKETNET_API pocketnet_status pocketnet_open(const char* path, const pocketnet_open_options* options,
                                              pocketnet_model** model);
/* The file's content, which must stay as it is until the model is closed, at a multiple of 64 bytes. */
POCKETNET_API pocketnet_status pocketnet_open_memory(const void* content, size_t bytes,
                                                     const pocketnet_open_options* options, pocketnet_model** model);
/* After its contexts were destroyed. NULL is fine. */
POCKETNET_API void pocketnet_close(pocketnet_model* model);

typedef struct pocketnet_info {
  size_t size;
  uint32_t file_version;
  uint32_t embedding_dim;
  uint32_t crop_side;         /* crops are crop_side x crop_side */
  uint32_t takes_photos;      /* 1: the file has a face detector, too */
  uint32_t half_precision;    /* 1: bf16; 0: fp32 */
  uint32_t thresholds;        /* how many pocketnet_threshold() has */
  uint32_t default_threshold; /* the number of the one that the weights' maker recommends */
  const char* isa;            /* instruction set in use */
  const char* metadata;       /* what the exporter says of the file: JSON, UTF-8, metadata_bytes without a final 0 */
  size_t metadata_bytes;
  unsigned char space[32]; /* SHA-256 of the weights: embeddings of other ones are not comparable */
} pocketnet_info;

/* Fills what fits into info->size bytes. */
POCKETNET_API pocketnet_status pocketnet_query(const pocketnet_model* model, pocketnet_info* info);

/* The cosine from which two faces count as one person's, at which different people are taken for one at the rate
 * `false_accept_rate`; `index` counts from 0. */
POCKETNET_API pocketnet_status pocketnet_threshold(const pocketnet_model* model, uint32_t index, double* cosine,
                                                   double* false_accept_rate);

typedef struct pocketnet_context_options {
  size_t size;
  void* memory;            /* the context lies in it, from a multiple of 64 bytes on; NULL: in memory of the heap */
  size_t memory_bytes;     /* at least pocketnet_context_bytes() */
  uint32_t crops_only;     /* 1: no photos, which take most of the memory */
  uint32_t max_photo_side; /* in pixels; 0: 2048 */
} pocketnet_context_options;

/* How much memory a context takes. */
POCKETNET_API pocketnet_status pocketnet_context_bytes(const pocketnet_model* model,
                                                       const pocketnet_context_options* options, size_t* bytes);
/* The model must stay open for as long as the context lives. Options may be NULL. */
POCKETNET_API pocketnet_status pocketnet_context_create(const pocketnet_model* model,
                                                        const pocketnet_context_options* options,
                                                        pocketnet_context** context);
/* NULL is fine. */
POCKETNET_API void pocketnet_context_destroy(pocketnet_context* context);

typedef enum pocketnet_format {
  POCKETNET_RGB = 0, /* 3 bytes a pixel */
  POCKETNET_BGR = 1,
  POCKETNET_GREY = 2, /* 1 byte a pixel */
  POCKETNET_NV12 = 3, /* BT.601, 16..235: a plane of Y, and `chroma` of U and V for every 2 x 2 pixels */
  POCKETNET_NV21 = 4  /* the same with V first */
} pocketnet_format;

typedef struct pocketnet_image {
  const uint8_t* pixels;
  const uint8_t* chroma; /* NV12 and NV21 only */
  ptrdiff_t stride;      /* bytes from a row to the next; 0: no gaps; negative: rows from the bottom up */
  ptrdiff_t chroma_stride;
  uint32_t width, height;
  uint32_t format; /* a pocketnet_format */
} pocketnet_image;

/* Embeds `count` aligned crops of crop_side x crop_side: embedding_dim floats each, of length 1. */
POCKETNET_API pocketnet_status pocketnet_embed(pocketnet_context* context, const pocketnet_image* crops, size_t count,
                                               float* embeddings);

typedef struct pocketnet_face {
  float box[4];          /* left, top, width, height, in pixels of the photo */
  float landmarks[5][2]; /* x, y: left and right eye, nose, left and right corner of the mouth, as seen in the photo */
  float score;           /* how sure the detector is, 0 to 1 */
  float quality;         /* how far decisions about the face can be relied on, 0 to 1 */
  int32_t turn; /* 0, 90, 180, 270: clockwise degrees by which the photo must be turned for the face to be upright */
  uint32_t reserved;
} pocketnet_face;

/* Finds the faces of a photo, the most prominent first, and embeds the first `capacity`: their places to `faces`, their
 * embeddings of length 1 to `embeddings`, unless that is NULL. `found` is how many the photo has. Faces that are not sure
 * to be any are left out. */
POCKETNET_API pocketnet_status pocketnet_analyze(pocketnet_context* context, const pocketnet_image* photo,
                                                 pocketnet_face* faces, float* embeddings, size_t capacity,
                                                 size_t* found);

/* The cosine of two embeddings. */
POCKETNET_API pocketnet_status pocketnet_compare(const float* one, const float* other, size_t embedding_dim,
                                                 double* cosine);

#ifdef __cplusplus
}
#endif

#endif
