/* What the kernels share: a layer and its constants, memory types, the split among threads.
 *
 * Values, spikes and their gradients are float or bfloat16 in memory. All arithmetic is float (sums
 * over a channel: double), and so are potentials from step to step: a bfloat16 layer is the float
 * layer between two conversions.
 */
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX__
#include <immintrin.h>
#endif

#if defined(__FP_FAST_FMAF) || defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define MULTIPLY_ADD(a, b, c) fmaf(a, b, c)
#else /* without the instruction fmaf is a slow library call */
#define MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#endif

/* Elements that go through the operations together: a dozen arrays of them stay in L1. Not 1024:
 * arrays at equal offsets in their 4 KiB pages make stores and loads wait for each other. */
#define BLOCK 256
/* Element-steps that go through all timesteps together and stay in L2. Each of the 3 T streams of T
 * timesteps is read or written for a while before the next: many short visits would leave the
 * processor's prefetcher behind. */
#ifndef TILE
#define TILE 8192
#endif
#define INLINE static inline __attribute__((always_inline))

/* The rows of a layer's constants. */
enum {
    THRESHOLD,
    REST,       /* beta * V[-1] where no potential is passed in */
    SCALE,      /* N/V_th, rounded, */
    SCALE_REST, /* and what the rounding took away */
    MEAN,       /* of a batch norm before the neurons; the drive is GAIN * x + OFFSET */
    GAIN,
    OFFSET,
    ROWS
};

/* One layer of neurons; the same fields, in this order, stand in layer.py. */
typedef struct {
    int64_t elements;  /* in one timestep, in memory order */
    int64_t steps;     /* T */
    int64_t channels;  /* that have constants of their own; 1 if all share them */
    int64_t inner;     /* memory distance between channels; 1 if there is one */
    int64_t normed;    /* a batch norm stands before the neurons, and x is its input */
    int64_t levels;    /* N */
    int64_t window;    /* how many bumps of the sigmoid's sum reach an element; 0 for windows */
    int64_t detach;    /* no gradient through the reset */
    int64_t bfloat16;  /* type of x, s and their gradients; else float */
    int64_t bypass;    /* write results past the cache, which they are too large for */
    int64_t threads;
    float alpha, beta;
    float reach;            /* end of the window of "ste" and "clip", in V_th */
    const float *constants; /* [ROWS, width]; where inner = 1 channels start anew for BLOCK more */
    int64_t width;
    const float *rise; /* [window] exp(alpha * (c - k)), c the centre of the window */
    const float *fall; /* [window] 1 / rise */
} Layer;

/* A row for each element of a block: in the table of the layer, or spread out in `room`. */
typedef struct {
    const float *row[ROWS];
    float room[ROWS][BLOCK];
} Constants;

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* How many of n elements from `at` on lie in `*channel`, or, where channels are neighbours in memory
 * (inner = 1), in channels that count up from it. */
static inline int64_t run(const Layer *layer, int64_t at, int64_t n, int64_t *channel) {
    *channel = at / layer->inner % layer->channels;
    if (layer->channels == 1) return n;
    return least(n, layer->inner == 1 ? layer->channels - *channel
                                      : layer->inner - at % layer->inner);
}

INLINE void constants_at(const Layer *layer, int64_t at, int64_t n, Constants *c) {
    int rows = layer->normed ? ROWS : MEAN;
    if (layer->inner == 1) {
        for (int row = 0; row < rows; row++)
            c->row[row] = layer->constants + row * layer->width + at % layer->channels;
        return;
    }
    int64_t channel, length;
    for (int64_t i = 0; i < n; i += length) {
        length = run(layer, at + i, n - i, &channel);
        for (int row = 0; row < rows; row++) {
            float value = layer->constants[row * layer->width + channel];
            for (int64_t j = 0; j < length; j++) c->room[row][i + j] = value;
        }
    }
    for (int row = 0; row < rows; row++) c->row[row] = c->room[row];
}

/* n values as floats: where they lie, or converted into `room`. */
INLINE const float *loaded(int64_t bfloat16, const void *values, int64_t at, int64_t n,
                           float *restrict room) {
    if (!bfloat16) return (const float *)values + at;
    const uint16_t *restrict from = (const uint16_t *)values + at;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)from[i] << 16;
        memcpy(&room[i], &bits, sizeof bits);
    }
    return room;
}

/* Where to put such values, to be followed by `store`. */
INLINE float *place(int64_t bfloat16, void *values, int64_t at, float *room) {
    return bfloat16 ? room : (float *)values + at;
}

/* Rounds what was put into `room` to the nearest bfloat16, ties to even; NaN stays NaN. */
INLINE void store(int64_t bfloat16, const float *restrict room, int64_t n, void *values,
                  int64_t at) {
    if (!bfloat16) return;
    uint16_t *restrict to = (uint16_t *)values + at;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &room[i], sizeof bits);
        uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        to[i] = (uint16_t)(room[i] == room[i] ? rounded : 0x7fc0);
    }
}

/* Copies past the cache where the processor can: it need not read the lines that it overwrites. */
INLINE void copy_past_cache(void *to, const void *from, size_t bytes) {
#ifdef __AVX__
    if (bytes % sizeof(__m256i) == 0 && (uintptr_t)to % sizeof(__m256i) == 0) {
        const __m256i *source = from;
        __m256i *target = to;
        for (size_t i = 0; i < bytes / sizeof(__m256i); i++)
            _mm256_stream_si256(target + i, _mm256_loadu_si256(source + i));
        return;
    }
#endif
    memcpy(to, from, bytes);
}

/* Makes what was copied past the cache visible to all threads. */
INLINE void end_of_copies(void) {
#ifdef __AVX__
    _mm_sfence();
#endif
}

/* As `store`, with `bypass` past the cache, and then `room` holds floats too. */
INLINE void store_by(int64_t bypass, int64_t bfloat16, const float *restrict room, int64_t n,
                     void *values, int64_t at) {
    uint16_t narrow[BLOCK];
    if (!bypass) {
        store(bfloat16, room, n, values, at);
        return;
    }
    store(bfloat16, room, n, narrow, 0);
    if (bfloat16)
        copy_past_cache((uint16_t *)values + at, narrow, (size_t)n * sizeof(uint16_t));
    else
        copy_past_cache((float *)values + at, room, (size_t)n * sizeof(float));
}

/* Elements of a tile, at most TILE; behind a batch norm (of at most TILE channels) whole rows. */
static inline int64_t tile_size(const Layer *layer) {
    int64_t row = layer->normed && layer->inner == 1 ? layer->channels : 1;
    int64_t wanted = TILE / layer->steps, rows = (wanted > BLOCK ? wanted : BLOCK) / row;
    return row * (rows > 1 ? rows : 1);
}

/* The elements that one of the threads works on: whole tiles, [first, end). */
static inline int64_t share(const Layer *layer, int64_t thread, int64_t *end) {
    int64_t tile = tile_size(layer), tiles = (layer->elements + tile - 1) / tile;
    *end = least(layer->elements, tiles * (thread + 1) / layer->threads * tile);
    return tiles * thread / layer->threads * tile;
}

typedef float Floats __attribute__((vector_size(32)));
typedef double Doubles __attribute__((vector_size(64)));

/* Eight values as floats. */
INLINE Floats eight(int64_t bfloat16, const void *values, int64_t at) {
    typedef uint16_t Halves __attribute__((vector_size(16)));
    typedef uint32_t Words __attribute__((vector_size(32)));
    Floats result;
    if (bfloat16) {
        Halves narrow;
        memcpy(&narrow, (const uint16_t *)values + at, sizeof narrow);
        Words wide = __builtin_convertvector(narrow, Words) << 16;
        memcpy(&result, &wide, sizeof result);
    } else {
        memcpy(&result, (const float *)values + at, sizeof result);
    }
    return result;
}

/* Adds to the sums [2, channels] what `count` rows of channels bring: a, and a * (b - mean). */
INLINE void add_rows(int64_t count, int64_t channels, int64_t bfloat16, const void *a,
                     const void *b, int64_t at, const float *mean, double *sums) {
    double *products = sums + channels;
    int64_t channel = 0;
    for (; channel + 8 <= channels; channel += 8) {
        Doubles sum, product, middle = __builtin_convertvector(eight(0, mean, channel), Doubles);
        memcpy(&sum, sums + channel, sizeof sum);
        memcpy(&product, products + channel, sizeof product);
        for (int64_t row = 0; row < count; row++) {
            int64_t here = at + row * channels + channel;
            Doubles x = __builtin_convertvector(eight(bfloat16, a, here), Doubles);
            Doubles y = __builtin_convertvector(eight(bfloat16, b, here), Doubles);
            sum += x;
            product += x * (y - middle);
        }
        memcpy(sums + channel, &sum, sizeof sum);
        memcpy(products + channel, &product, sizeof product);
    }
    for (; channel < channels; channel++) {
        for (int64_t row = 0; row < count; row++) {
            float one, other;
            int64_t here = at + row * channels + channel;
            double x = *loaded(bfloat16, a, here, 1, &one), y = *loaded(bfloat16, b, here, 1, &other);
            sums[channel] += x;
            products[channel] += x * (y - mean[channel]);
        }
    }
}

/* The sums over every channel of a, and of a * (b - mean), added to sums [2, channels]; n values of
 * each from `at` on, which are whole rows where channels are neighbours. */
INLINE void add_by_channel(const Layer *layer, int64_t bfloat16, int64_t n, const void *a,
                           const void *b, int64_t at, const float *restrict mean,
                           double *restrict sums) {
    int64_t channel, length, end = at + n;
    if (layer->inner == 1) { /* four at a time: the sums are moved less, and few streams are read */
        for (; at + 4 * layer->channels <= end; at += 4 * layer->channels)
            add_rows(4, layer->channels, bfloat16, a, b, at, mean, sums);
        for (; at < end; at += layer->channels)
            add_rows(1, layer->channels, bfloat16, a, b, at, mean, sums);
        return;
    }
    float rooms[2][BLOCK];
    for (; at < end; at += length) {
        length = run(layer, at, least(BLOCK, end - at), &channel);
        const float *x = loaded(bfloat16, a, at, length, rooms[0]);
        const float *y = loaded(bfloat16, b, at, length, rooms[1]);
        double sum = 0.0, product = 0.0, middle = mean[channel];
#pragma omp simd reduction(+ : sum, product)
        for (int64_t i = 0; i < length; i++) {
            sum += x[i];
            product += x[i] * (y[i] - middle);
        }
        sums[channel] += sum;
        sums[layer->channels + channel] += product;
    }
}
