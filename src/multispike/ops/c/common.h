/* What the kernels share: memory types, and writing past the cache.
 *
 * Values, spikes and their gradients are float or bfloat16 in memory. All arithmetic is float (sums
 * over a channel: double), and so are potentials from step to step: a bfloat16 layer is the float
 * layer between two conversions.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX__
#include <immintrin.h>
#endif

/* Elements that go through the operations together: a dozen arrays of them stay in L1. Not 1024:
 * arrays at equal offsets in their 4 KiB pages make stores and loads wait for each other. */
#define BLOCK 256
#define INLINE static inline __attribute__((always_inline))

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

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
