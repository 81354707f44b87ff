/* How often each level occurs among graded spikes: called by counts.py. */
#include "common.h"

/* Spikes [steps, rows, places] in memory order; the same fields, in this order, stand in counts.py. */
typedef struct {
    int64_t steps, rows, places, levels, bfloat16, threads;
    const float *scale; /* [places] or, if `shared`, one: 1 / (V_th/N); NULL: every non-zero is 1 */
    int64_t shared;
} Spikes;

/* The nearest level of n values; NaN has none. */
INLINE void nearest(int64_t n, const float *restrict value, const float *restrict scale,
                    int32_t *restrict level) {
    for (int64_t i = 0; i < n; i++) {
        float z = value[i] * scale[i] + 0.5f;
        z = z > 0.0f ? z : 0.0f; /* NaN too */
        level[i] = (int32_t)(z < 255.0f ? z : 255.0f);
    }
}

typedef int32_t Ints __attribute__((vector_size(64), may_alias));
enum { LANES = sizeof(Ints) / sizeof(int32_t) };

/* Adds to `reached` how many levels of a block are k or above, for k = from..most. */
INLINE void reach(const int32_t *level, int32_t from, int32_t most, int64_t *reached) {
    for (int32_t k = from; k <= most; k++) {
        Ints more = {0};
        for (int64_t i = 0; i < BLOCK; i += LANES) more -= *(const Ints *)(level + i) >= k;
        for (int lane = 0; lane < LANES; lane++) reached[k - 1] += more[lane];
    }
}

/* n places from `at` on: `events` and `amplitude` over all steps and rows. */
INLINE void count(const Spikes *x, int64_t bfloat16, const void *values, int64_t at, int64_t n,
                  double *restrict events, double *restrict amplitude, int64_t *reached,
                  int64_t *summed) {
    float given[BLOCK], scale[BLOCK];
    _Alignas(Ints) int32_t level[BLOCK] = {0}, total[BLOCK], nonzero[BLOCK] = {0}, sum[BLOCK] = {0};
    if (x->scale)
        for (int64_t i = 0; i < n; i++) scale[i] = x->scale[x->shared ? 0 : at + i];
    for (int64_t row = 0; row < x->rows; row++) {
        memset(total, 0, sizeof total);
        for (int64_t t = 0; t < x->steps; t++) {
            const float *value =
                loaded(bfloat16, values, (t * x->rows + row) * x->places + at, n, given);
            if (x->scale)
                nearest(n, value, scale, level);
            else
                for (int64_t i = 0; i < n; i++) level[i] = value[i] != 0.0f;
            for (int64_t i = 0; i < n; i++) {
                nonzero[i] += level[i] > 0;
                total[i] += level[i];
            }
            reach(level, 2, (int32_t)x->levels, reached);
        }
        for (int64_t i = 0; i < n; i++) sum[i] += total[i];
        if (x->steps > 1) reach(total, 1, (int32_t)(x->levels * x->steps), summed);
    }
    for (int64_t i = 0; i < n; i++) {
        events[at + i] = nonzero[i];
        amplitude[at + i] = sum[i];
        reached[0] += nonzero[i];
    }
}

INLINE void count_all(const Spikes *x, int64_t bfloat16, const void *values, double *events,
                      double *amplitude, int64_t *reached, int64_t *summed) {
    int64_t levels = x->levels, most = levels * x->steps;
#pragma omp parallel for schedule(static) num_threads(x->threads) \
    reduction(+ : reached[ : levels], summed[ : most])
    for (int64_t at = 0; at < x->places; at += BLOCK)
        count(x, bfloat16, values, at, least(BLOCK, x->places - at), events, amplitude, reached,
              summed);
}

/* Over all steps and rows: events and amplitude (in levels) at every place; `reached` [levels], how
 * many elements are at level 1, 2, ... or above; `summed` [levels * steps], the same of the levels
 * summed over more than one step. The last two are zeros before. */
void multispike_count(const Spikes *x, const void *values, double *events, double *amplitude,
                      int64_t *reached, int64_t *summed) {
    if (x->bfloat16)
        count_all(x, 1, values, events, amplitude, reached, summed);
    else
        count_all(x, 0, values, events, amplitude, reached, summed);
}
