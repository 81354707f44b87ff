/* Graded spikes as bytes, and back: called by levels.py for what a convolution keeps of its input.
 *
 * A byte is the level z of the spike z/N * V_th, computed as neurons.c does. Only where every value
 * comes back bit for bit are bytes taken instead of floats.
 */
#include "common.h"

/* The same fields, in this order, stand in levels.py. */
typedef struct {
    int64_t size, bfloat16, threads;
    float threshold, levels;
} Levels;

INLINE void values_of(const Levels *x, int64_t n, const int32_t *restrict level,
                      float *restrict value) {
    for (int64_t i = 0; i < n; i++) value[i] = (float)level[i] / x->levels * x->threshold;
}

/* At most BLOCK levels; whether none of the values is anything else. */
INLINE int pack(const Levels *x, int64_t bfloat16, const void *values, int64_t at, int64_t n,
                uint8_t *restrict codes) {
    float given[BLOCK], back[BLOCK], result[BLOCK], again[BLOCK], scale = x->levels / x->threshold;
    int32_t level[BLOCK]; /* as wide as the values: loops of one width vectorise best */
    const float *value = loaded(bfloat16, values, at, n, given);
    for (int64_t i = 0; i < n; i++) {
        float nearest = nearbyintf(value[i] * scale);
        nearest = nearest > 0.0f ? nearest : 0.0f;
        level[i] = (int32_t)(nearest < 255.0f ? nearest : 255.0f);
    }
    values_of(x, n, level, result);
    store(bfloat16, result, n, back, 0);
    const float *rounded = bfloat16 ? loaded(bfloat16, back, 0, n, again) : result;
    int32_t differ = 0;
    for (int64_t i = 0; i < n; i++) differ |= rounded[i] != value[i];
    for (int64_t i = 0; i < n; i++) codes[i] = (uint8_t)level[i];
    return !differ;
}

INLINE void pack_all(const Levels *x, int64_t bfloat16, const void *values, uint8_t *codes,
                     int32_t *exact) {
    *exact = pack(x, bfloat16, values, 0, least(x->size, BLOCK), codes);
    if (!*exact) return; /* most tensors that are no spikes end here */
    int differ = 0;
#pragma omp parallel for schedule(static) num_threads(x->threads) reduction(| : differ)
    for (int64_t at = BLOCK; at < x->size; at += BLOCK)
        if (!differ)
            differ |= !pack(x, bfloat16, values, at, least(BLOCK, x->size - at), codes + at);
    *exact = !differ;
}

INLINE void unpack_all(const Levels *x, int64_t bfloat16, const uint8_t *codes, void *values) {
#pragma omp parallel for schedule(static) num_threads(x->threads)
    for (int64_t at = 0; at < x->size; at += BLOCK) {
        int64_t n = least(BLOCK, x->size - at);
        float result[BLOCK];
        int32_t level[BLOCK];
        for (int64_t i = 0; i < n; i++) level[i] = codes[at + i];
        float *value = place(bfloat16, values, at, result);
        values_of(x, n, level, value);
        store(bfloat16, value, n, values, at);
    }
}

/* `exact` is 1 if `codes` say all of the values, else 0, and the codes are worth nothing. */
void multispike_pack(const Levels *x, const void *values, uint8_t *codes, int32_t *exact) {
    if (x->bfloat16)
        pack_all(x, 1, values, codes, exact);
    else
        pack_all(x, 0, values, codes, exact);
}

void multispike_unpack(const Levels *x, const uint8_t *codes, void *values) {
    if (x->bfloat16)
        unpack_all(x, 1, codes, values);
    else
        unpack_all(x, 0, codes, values);
}
