/* How often each level occurs among graded spikes: called by counts.py. */
#include "common.h"

/* Spikes [steps, rows, places] in memory order; the same fields, in this order, stand in counts.py. */
typedef struct {
    int64_t steps, rows, places, levels, bfloat16, threads;
    const float *scale; /* [places] or, if `shared`, one: 1 / (V_th/N); NULL: every non-zero is 1 */
    int64_t shared;
} Spikes;

typedef int8_t Bytes __attribute__((vector_size(64), may_alias));
enum { LANES = sizeof(Bytes), VISITS = 255 / (BLOCK / LANES), MOST = 31 /* levels * steps */ };

/* Counts of a block over so few visits that bytes hold them; level k at index k. */
typedef struct {
    _Alignas(Bytes) uint8_t nonzero[BLOCK];
    uint16_t sum[BLOCK];
    Bytes reached[MOST + 1], summed[MOST + 1];
} Few;

/* The nearest level of n values, at most `most`; NaN has none. */
INLINE void nearest(int64_t n, const float *restrict value, const float *restrict scale, float most,
                    uint8_t *restrict level) {
    for (int64_t i = 0; i < n; i++) {
        float z = value[i] * scale[i] + 0.5f;
        z = z > 0.0f ? z : 0.0f; /* NaN too */
        level[i] = (uint8_t)(int32_t)(z < most ? z : most);
    }
}

/* Adds to each lane of `reached` how many levels of a block are k or above, for k = 1..most. */
INLINE void reach(const uint8_t *level, int64_t most, Bytes *reached) {
    for (int64_t k = 1; k <= most; k++) {
        Bytes more = reached[k];
        for (int64_t i = 0; i < BLOCK; i += LANES) more -= *(const Bytes *)(level + i) >= (int8_t)k;
        reached[k] = more;
    }
}

/* Adds the lanes to `reached`, for k = 1..most. */
INLINE void add_lanes(const Bytes *few, int64_t most, int64_t *reached) {
    for (int64_t k = 1; k <= most; k++)
        for (int64_t lane = 0; lane < LANES; lane++)
            reached[k] += ((const uint8_t *)(few + k))[lane];
}

/* n places from `at` on, over all steps and rows. */
INLINE void count(const Spikes *x, int64_t bfloat16, const void *values, int64_t at, int64_t n,
                  double *restrict events, double *restrict amplitude, int64_t *reached,
                  int64_t *summed) {
    float given[BLOCK], scale[BLOCK];
    _Alignas(Bytes) uint8_t level[BLOCK] = {0}, total[BLOCK];
    int64_t most = x->levels * x->steps, rows = VISITS / x->steps;
    if (x->scale)
        for (int64_t i = 0; i < n; i++) scale[i] = x->scale[x->shared ? 0 : at + i];
    for (int64_t first = 0; first < x->rows; first += rows) {
        Few few = {0};
        for (int64_t row = first; row < least(first + rows, x->rows); row++) {
            memset(total, 0, sizeof total);
            for (int64_t t = 0; t < x->steps; t++) {
                const float *value =
                    loaded(bfloat16, values, (t * x->rows + row) * x->places + at, n, given);
                if (x->scale)
                    nearest(n, value, scale, (float)x->levels, level);
                else
                    for (int64_t i = 0; i < n; i++) level[i] = value[i] != 0.0f;
                for (int64_t i = 0; i < BLOCK; i++) {
                    few.nonzero[i] += level[i] > 0;
                    few.sum[i] += level[i];
                    total[i] += level[i];
                }
                reach(level, x->levels, few.reached);
            }
            if (x->steps > 1) reach(total, most, few.summed);
        }
        for (int64_t i = 0; i < n; i++) {
            events[at + i] += few.nonzero[i];
            amplitude[at + i] += few.sum[i];
        }
        add_lanes(few.reached, x->levels, reached);
        if (x->steps > 1) add_lanes(few.summed, most, summed);
    }
}

/* From `elements` and how many of them are at level k = 1..most or above: how many at each level. */
static void at_each_level(int64_t elements, int64_t most, int64_t *reached) {
    reached[0] = elements;
    for (int64_t k = 0; k < most; k++) reached[k] -= reached[k + 1];
}

INLINE void count_all(const Spikes *x, int64_t bfloat16, const void *values, double *sums,
                      int64_t *histogram, int64_t *summed) {
    int64_t levels = x->levels, most = levels * x->steps;
#pragma omp parallel for schedule(static) num_threads(x->threads) \
    reduction(+ : histogram[ : levels + 1], summed[ : most + 1])
    for (int64_t at = 0; at < x->places; at += BLOCK)
        count(x, bfloat16, values, at, least(BLOCK, x->places - at), sums, sums + x->places,
              histogram, summed);
    at_each_level(x->steps * x->rows * x->places, levels, histogram);
    at_each_level(x->rows * x->places, most, summed);
}

/* Over all steps and rows: sums [2, places], non-zeros and levels; histogram [levels + 1], elements at
 * each level; summed [levels * steps + 1], for steps > 1 the same of the levels summed over time. All
 * are zeros before; levels * steps is at most MOST. */
void multispike_count(const Spikes *x, const void *values, double *sums, int64_t *histogram,
                      int64_t *summed) {
    if (x->bfloat16)
        count_all(x, 1, values, sums, histogram, summed);
    else
        count_all(x, 0, values, sums, histogram, summed);
}
