/* How often each level occurs among graded spikes: called by counts.py. */
#include "common.h"

/* Spikes [steps, rows, places] in memory order, where place = (outer * channels + channel) * inner +
 * its rest; the same fields, in this order, stand in counts.py. */
typedef struct {
    int64_t steps, rows, places, channels, inner, levels, bfloat16, threads;
    const float *scale; /* [places]: 1 / (V_th/N); NULL: one for all, `shared` */
    float shared;       /* 0: every non-zero is at level 1 */
} Spikes;

typedef int8_t Bytes __attribute__((vector_size(64), may_alias));
enum {
    LANES = sizeof(Bytes),
    VECTORS = BLOCK / LANES,
    SPAN = 8192, /* places whose counts stay in L1; a row of them is read in one piece */
    MOST = 31    /* levels * steps */
};

/* How many bytes are at level k or above, for k = first..most - 1; the rest follows from sums. */
typedef struct {
    int64_t first, most, visits;
    Bytes few[MOST + 1]; /* in lanes, until they are full */
    int64_t many[MOST + 1];
} Reached;

INLINE void empty(Reached *reached) {
    for (int64_t k = reached->first; k < reached->most; k++) {
        for (int64_t lane = 0; lane < LANES; lane++)
            reached->many[k] += ((const uint8_t *)(reached->few + k))[lane];
        reached->few[k] = (Bytes){0};
    }
    reached->visits = 0;
}

INLINE void reach(const uint8_t *level, Reached *reached) {
    if (reached->visits + VECTORS > 255) empty(reached);
    reached->visits += VECTORS;
    for (int64_t k = reached->first; k < reached->most; k++) {
        Bytes more = reached->few[k];
        for (int64_t i = 0; i < BLOCK; i += LANES) more -= *(const Bytes *)(level + i) >= (int8_t)k;
        reached->few[k] = more;
    }
}

/* The nearest level of n values, at most `most`; NaN has none. */
INLINE void nearest(int64_t n, const float *restrict value, const float *restrict scale, float shared,
                    float most, uint8_t *restrict level) {
    for (int64_t i = 0; i < n; i++) {
        float z = value[i] * (scale ? scale[i] : shared) + 0.5f;
        z = z > 0.0f ? z : 0.0f; /* NaN too */
        level[i] = (uint8_t)(int32_t)(z < most ? z : most);
    }
}

/* The levels of n places from `at` on in one row of one step. */
INLINE void levels_at(const Spikes *x, int64_t bfloat16, const void *values, int64_t row, int64_t at,
                      int64_t n, uint8_t *restrict level) {
    float room[BLOCK], most = (float)x->levels;
    const float *value = loaded(bfloat16, values, row * x->places + at, n, room);
    if (x->scale)
        nearest(n, value, x->scale + at, 0.0f, most, level);
    else if (x->shared != 0.0f)
        nearest(n, value, NULL, x->shared, most, level);
    else
        for (int64_t i = 0; i < n; i++) level[i] = value[i] != 0.0f;
}

/* Adds the bytes of n places from `at` on to the sums [places / channels]. */
INLINE void add_to_pixels(const Spikes *x, const uint8_t *restrict bytes, int64_t at, int64_t n,
                          double *restrict sums) {
    int64_t channels = x->channels, inner = x->inner, length;
    for (int64_t i = 0; i < n; i += length) {
        int64_t place = at + i, pixel = place / (channels * inner) * inner + place % inner;
        if (inner == 1) {
            int64_t sum = 0;
            length = least(channels - place % channels, n - i);
            for (int64_t j = 0; j < length; j++) sum += bytes[i + j];
            sums[pixel] += (double)sum;
        } else {
            length = least(inner - place % inner, n - i);
            for (int64_t j = 0; j < length; j++) sums[pixel + j] += bytes[i + j];
        }
    }
}

/* n <= SPAN places from `at` on, over all rows. */
INLINE void count(const Spikes *x, int64_t bfloat16, const void *values, int64_t at, int64_t n,
                  double *restrict sums, Reached *reached, Reached *summed) {
    _Alignas(Bytes) uint8_t nonzero[SPAN], amplitude[SPAN], level[BLOCK] = {0}, total[BLOCK];
    int64_t few = 255 / (x->levels * x->steps); /* rows of which bytes hold the sums */
    for (int64_t first = 0; first < x->rows; first += few) {
        memset(nonzero, 0, sizeof nonzero);
        memset(amplitude, 0, sizeof amplitude);
        for (int64_t row = first; row < least(first + few, x->rows); row++) {
            for (int64_t i = 0; i < n; i += BLOCK) {
                int64_t size = least(BLOCK, n - i);
                if (size < BLOCK) memset(level, 0, sizeof level);
                if (x->steps > 1) memset(total, 0, sizeof total);
                for (int64_t t = 0; t < x->steps; t++) {
                    levels_at(x, bfloat16, values, t * x->rows + row, at + i, size, level);
                    for (int64_t j = 0; j < BLOCK; j++) {
                        nonzero[i + j] += level[j] > 0;
                        amplitude[i + j] += level[j];
                    }
                    reach(level, reached);
                    if (x->steps > 1)
                        for (int64_t j = 0; j < BLOCK; j++) total[j] += level[j];
                }
                if (x->steps > 1) reach(total, summed);
            }
        }
        add_to_pixels(x, nonzero, at, n, sums);
        add_to_pixels(x, amplitude, at, n, sums + x->places / x->channels);
    }
}

/* Adds the n numbers of a thread to those of all. */
INLINE void gather(int64_t n, const int64_t *from, int64_t *to) {
    for (int64_t i = 0; i < n; i++) to[i] += from[i];
}

/* Elements at each level 0..most, from how many are at level k = 1..most - 1 or above and from the sum
 * of all levels. */
static void at_each_level(int64_t elements, int64_t most, double amplitude, int64_t *reached,
                          double *histogram) {
    reached[0] = elements;
    reached[most] = (int64_t)amplitude;
    for (int64_t k = 1; k < most; k++) reached[most] -= reached[k];
    for (int64_t k = 0; k < most; k++) histogram[k] = (double)(reached[k] - reached[k + 1]);
    histogram[most] = (double)reached[most];
}

INLINE void count_all(const Spikes *x, int64_t bfloat16, const void *values, double *sums,
                      double *histogram, double *summed) {
    int64_t levels = x->levels, most = levels * x->steps, pixels = x->places / x->channels;
    int64_t blocks = (x->places + BLOCK - 1) / BLOCK, reached[MOST + 1] = {0}, total[MOST + 1] = {0};
#pragma omp parallel for schedule(static, 1) num_threads(x->threads)
    for (int64_t thread = 0; thread < x->threads; thread++) {
        Reached here = {.first = 2, .most = levels}, over_time = {.first = 1, .most = most};
        int64_t end = least(blocks * (thread + 1) / x->threads * BLOCK, x->places);
        for (int64_t at = blocks * thread / x->threads * BLOCK; at < end; at += SPAN)
            count(x, bfloat16, values, at, least(SPAN, end - at), sums + thread * 2 * pixels, &here,
                  &over_time);
        empty(&here);
        empty(&over_time);
#pragma omp critical
        {
            gather(MOST + 1, here.many, reached);
            gather(MOST + 1, over_time.many, total);
        }
    }
    double events = 0.0, amplitude = 0.0;
    for (int64_t pixel = 0; pixel < pixels; pixel++) {
        for (int64_t thread = 1; thread < x->threads; thread++) {
            const double *other = sums + thread * 2 * pixels;
            sums[pixel] += other[pixel];
            sums[pixels + pixel] += other[pixels + pixel];
        }
        events += sums[pixel];
        amplitude += sums[pixels + pixel];
    }
    reached[1] = (int64_t)events;
    at_each_level(x->steps * x->rows * x->places, levels, amplitude, reached, histogram);
    if (x->steps > 1) at_each_level(x->rows * x->places, most, amplitude, total, summed);
}

/* Non-zeros alone, of values without levels, in one pass over memory. */
static void count_nonzeros(const Spikes *x, const float *values, double *sums, double *histogram) {
    int64_t inner = x->inner, channels = x->channels, pixels = x->places / channels;
    int64_t wide = inner == 1 ? 1 : 2048, pieces = (inner + wide - 1) / wide;
#pragma omp parallel for schedule(static) num_threads(x->threads)
    for (int64_t piece = 0; piece < pixels / inner * pieces; piece++) {
        int64_t outer = piece / pieces, at = piece % pieces * wide, n = least(wide, inner - at);
        int32_t found[2048];
        memset(found, 0, (size_t)n * sizeof *found);
        for (int64_t row = 0; row < x->rows; row++) {
            const float *value = values + row * x->places + outer * channels * inner + at;
            if (inner == 1)
                for (int64_t i = 0; i < channels; i++) found[0] += value[i] != 0.0f;
            else
                for (int64_t channel = 0; channel < channels; channel++, value += inner)
                    for (int64_t i = 0; i < n; i++) found[i] += value[i] != 0.0f;
        }
        for (int64_t i = 0; i < n; i++) sums[outer * inner + at + i] = found[i];
    }
    for (int64_t pixel = 0; pixel < pixels; pixel++) histogram[1] += sums[pixel];
    histogram[0] = (double)(x->rows * x->places) - histogram[1];
}

/* Over all steps, rows and channels: sums [threads, 2, places / channels], which are zeros before; the
 * first thread's get the non-zeros and the levels of each pixel. histogram [levels + 1], elements at
 * each level; for steps > 1 summed [levels * steps + 1], the same of the levels summed over time.
 * levels * steps is at most MOST. Values without levels are at level 0 or 1. */
void multispike_count(const Spikes *x, const void *values, double *sums, double *histogram,
                      double *summed) {
    if (!x->scale && x->shared == 0.0f && !x->bfloat16)
        count_nonzeros(x, values, sums, histogram);
    else if (x->bfloat16)
        count_all(x, 1, values, sums, histogram, summed);
    else
        count_all(x, 0, values, sums, histogram, summed);
}
