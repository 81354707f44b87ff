/* Multi-level integrate-and-fire neurons: all timesteps of a block of elements in one pass.
 *
 * Called by spikes.py. The arithmetic follows reference.py and surrogate.py operation by operation
 * (no fused multiply-add, no reassociation), so that spikes and potentials are the same bits; only
 * the sigmoid's sum is evaluated in another way.
 */
#include "layer.h"
#include <math.h>

#if defined(__FP_FAST_FMAF) || defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define MULTIPLY_ADD(a, b, c) fmaf(a, b, c)
#else /* without the instruction fmaf is a slow library call */
#define MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#endif

/* Element-steps that go through all timesteps together and stay in L2. Each of the 3 T streams of T
 * timesteps is read or written for a while before the next: many short visits would leave the
 * processor's prefetcher behind. */
#define TILE 8192

/* Elements of a tile: at most TILE of all timesteps together. */
static inline int64_t tile_size(const Layer *layer) {
    int64_t wanted = TILE / layer->steps;
    return wanted > BLOCK ? wanted : BLOCK;
}

/* The elements that one of the threads works on: whole tiles, [first, end). */
static inline int64_t share(const Layer *layer, int64_t thread, int64_t *end) {
    int64_t tile = tile_size(layer), tiles = (layer->elements + tile - 1) / tile;
    *end = least(layer->elements, tiles * (thread + 1) / layer->threads * tile);
    return tiles * thread / layer->threads * tile;
}

/* z/N for z = #{k in 1..N : h >= V_th * k/N}. The scale is taken a little too small, by more than
 * all rounding errors together: the quotient is then z or z - 1, and one comparison settles it. */
INLINE float fraction(float h, float threshold, float scale, float levels) {
    float guess = floorf(h * (scale * (1.0f - 0x1p-20f)));
    guess = guess > 0.0f ? guess : 0.0f;
    guess = guess < levels - 1.0f ? guess : levels - 1.0f;
    float low = guess / levels, high = (guess + 1.0f) / levels;
    return h >= high * threshold ? high : low;
}

/* V before the first timestep, leak applied. */
INLINE void begin(int64_t n, const Layer *layer, const Constants *c, const float *restrict given,
                  float *restrict v) {
    for (int64_t i = 0; i < n; i++) v[i] = given ? given[i] * layer->beta : c->row[START][i];
}

/* One timestep of one block: x, v -> s and v * decay. `window` (or NULL) is 1 in the window of the
 * gradient, 0 <= H <= V_th * reach. */
INLINE void fire(int64_t n, const Layer *layer, const Constants *c, const float *restrict x,
                 float *restrict v, float decay, float *restrict s, uint8_t *restrict window) {
    const float *threshold = c->row[THRESHOLD], *scale = c->row[SCALE];
    float levels = (float)layer->levels, reach = layer->reach;
    for (int64_t i = 0; i < n; i++) {
        float h = x[i] + v[i];
        float spike = fraction(h, threshold[i], scale[i], levels) * threshold[i];
        spike = h == h ? spike : h; /* NaN stays NaN: a diverged run has to be seen */
        s[i] = spike;
        if (window) window[i] = (h >= 0.0f) & (h <= threshold[i] * reach);
        v[i] = (h - spike) * decay;
    }
}

/* One timestep of one block without its spikes: x, v -> H and v * beta. */
INLINE void charge(int64_t n, const Layer *layer, const Constants *c, const float *restrict x,
                   float *restrict v, float *restrict potential, int fires) {
    const float *threshold = c->row[THRESHOLD], *scale = c->row[SCALE];
    float levels = (float)layer->levels, beta = layer->beta;
    for (int64_t i = 0; i < n; i++) {
        float h = x[i] + v[i];
        potential[i] = h;
        if (fires) v[i] = (h - fraction(h, threshold[i], scale[i], levels) * threshold[i]) * beta;
    }
}

/* e^x for |x| <= 80, to about one unit in the last place (minimax polynomial of Cephes' expf). */
INLINE float exponential(float x) {
    float k = nearbyintf(x * 0x1.715476p+0f);
    float r = MULTIPLY_ADD(k, 2.12194440e-4f, MULTIPLY_ADD(k, -0.693359375f, x));
    float p = 1.9875691500e-4f;
    p = MULTIPLY_ADD(p, r, 1.3981999507e-3f);
    p = MULTIPLY_ADD(p, r, 8.3334519073e-3f);
    p = MULTIPLY_ADD(p, r, 4.1665795894e-2f);
    p = MULTIPLY_ADD(p, r, 1.6666665459e-1f);
    p = MULTIPLY_ADD(p, r, 5.0000001201e-1f);
    p = MULTIPLY_ADD(p, r * r, r) + 1.0f;
    union {
        int32_t bits;
        float value;
    } power = {((int32_t)k + 127) * (1 << 23)};
    return p * power.value;
}

INLINE float smaller(float a, float b) { return a < b ? a : b; }

/* The sigmoid's slope: 0 at an infinite potential, NaN at NaN. */
INLINE float settled(float h, float slope) {
    return fabsf(h) < INFINITY ? slope : h == h ? 0.0f : h;
}

/* The sigmoid's slope, the sum over k of alpha * b_k with b_k = s(u_k) (1 - s(u_k)) and
 * u_k = alpha (h/D - k), D = V_th/N. With e = exp(-|u_k|) a bump is e / (1 + e)^2. Around a centre c,
 * e = min(w rise_k, fall_k / w), where w = exp(alpha (h/D - c)) is the one exponential of an element
 * and rise_k = exp(alpha (c - k)) = 1/fall_k are constants. Bumps outside of the window of levels
 * nearest to h would add less than a rounding error. Denominators are at most 4, so two bumps can share
 * a division. */
INLINE void bumps(int64_t n, const Layer *layer, const Constants *c,
                  const float *restrict potential, float *restrict slope) {
    const float *scale = c->row[SCALE], *scale_rest = c->row[SCALE_REST];
    float w[BLOCK], w_inverse[BLOCK];
    float alpha = layer->alpha, half = 0.5f * (float)(layer->bumps - 1);
    float last = (float)(layer->levels - layer->bumps + 1);
    for (int64_t i = 0; i < n; i++) {
        float h = potential[i], in_levels = h * scale[i];
        float first = floorf(in_levels - half + 0.5f);
        first = first > 1.0f ? first : 1.0f;
        first = first < last ? first : last;
        float offset = MULTIPLY_ADD(h, scale[i], -(first + half));
        offset = alpha * MULTIPLY_ADD(h, scale_rest[i], offset);
        offset = offset > -80.0f ? offset : -80.0f;
        w[i] = offset < 80.0f ? offset : 80.0f;
    }
    if (layer->bumps == 1) { /* one bump, and w its u: no constants, one division less */
        for (int64_t i = 0; i < n; i++) {
            float e = exponential(-fabsf(w[i]));
            slope[i] = settled(potential[i], alpha * e / ((1.0f + e) * (1.0f + e)));
        }
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        w[i] = exponential(w[i]);
        w_inverse[i] = 1.0f / w[i];
        slope[i] = 0.0f;
    }
    int64_t k = 0;
    for (; k + 2 <= layer->bumps; k += 2) {
        float rise = layer->rise[k], fall = layer->fall[k];
        float next_rise = layer->rise[k + 1], next_fall = layer->fall[k + 1];
        for (int64_t i = 0; i < n; i++) {
            float e = smaller(w[i] * rise, w_inverse[i] * fall);
            float next = smaller(w[i] * next_rise, w_inverse[i] * next_fall);
            float p = (1.0f + e) * (1.0f + e), q = (1.0f + next) * (1.0f + next);
            slope[i] += MULTIPLY_ADD(e, q, next * p) / (p * q);
        }
    }
    if (k < layer->bumps) {
        for (int64_t i = 0; i < n; i++) {
            float e = smaller(w[i] * layer->rise[k], w_inverse[i] * layer->fall[k]);
            slope[i] += e / ((1.0f + e) * (1.0f + e));
        }
    }
    for (int64_t i = 0; i < n; i++) slope[i] = settled(potential[i], slope[i] * alpha);
}

/* The window of "ste" and "clip". */
INLINE void inside(int64_t n, const Layer *layer, const Constants *c,
                   const float *restrict potential, float *restrict slope) {
    const float *threshold = c->row[THRESHOLD];
    float reach = layer->reach;
    for (int64_t i = 0; i < n; i++)
        slope[i] = potential[i] >= 0.0f && potential[i] <= threshold[i] * reach ? 1.0f : 0.0f;
}

/* One timestep of the backward: dL/ds, dL/dV (of this step, leak applied) -> dL/dx, dL/dV. */
INLINE void chain(int64_t n, const Layer *layer, const float *restrict grad,
                  const float *restrict slope, float *restrict grad_v, float *restrict grad_x) {
    float beta = layer->beta;
    for (int64_t i = 0; i < n; i++) {
        float g = layer->detach ? grad[i] : grad[i] - grad_v[i];
        g = g * slope[i] + grad_v[i];
        grad_x[i] = g;
        grad_v[i] = g * beta;
    }
}

/* n elements, each added to the sum of its channel. */
INLINE void add_to_channels(int64_t n, const Layer *layer, int64_t at, const float *restrict part,
                            double *restrict sums) {
    int64_t channel, length;
    for (int64_t i = 0; i < n; i += length) {
        length = run(layer, at + i, n - i, &channel);
        if (layer->inner == 1 && layer->channels > 1) {
            for (int64_t j = 0; j < length; j++) sums[channel + j] += part[i + j];
        } else {
            double sum = 0.0;
#pragma omp simd reduction(+ : sum)
            for (int64_t j = 0; j < length; j++) sum += part[i + j];
            sums[channel] += sum;
        }
    }
}

/* dL/dV_th of one timestep, added to sums [channels]; the gradient of LSQ and PACT: z/N - h/V_th
 * inside the window, 1 above, 0 below. */
INLINE void add_threshold_gradient(int64_t n, const Layer *layer, const Constants *c, int64_t at,
                                   const float *restrict grad, const float *restrict grad_v,
                                   const float *restrict potential, float *restrict part,
                                   double *restrict sums) {
    const float *threshold = c->row[THRESHOLD], *scale = c->row[SCALE];
    float levels = (float)layer->levels, reach = layer->reach;
    for (int64_t i = 0; i < n; i++) {
        float h = potential[i];
        float slope = fraction(h, threshold[i], scale[i], levels) - h / threshold[i];
        slope = h > threshold[i] * reach ? 1.0f : slope;
        slope = h < 0.0f ? 0.0f : slope;
        part[i] = (layer->detach ? grad[i] : grad[i] - grad_v[i]) * slope;
    }
    add_to_channels(n, layer, at, part, sums);
}

/* What V_th does through the potential before the first timestep, given dL/dH of that step. */
INLINE void add_start_gradient(int64_t n, const Layer *layer, const Constants *c, int64_t at,
                              const float *restrict grad_h, float *restrict part,
                              double *restrict sums) {
    const float *threshold = c->row[THRESHOLD], *start = c->row[START];
    for (int64_t i = 0; i < n; i++) part[i] = grad_h[i] * (start[i] / threshold[i]);
    add_to_channels(n, layer, at, part, sums);
}

/* x [T, elements], its timesteps x_stride apart -> s [T, elements]; v, window and last may be NULL. */
void multispike_forward(const Layer *layer, const void *x, int64_t x_stride, const float *v, void *s,
                        uint8_t *window, float *last) {
    fill_constants(layer);
#pragma omp parallel for schedule(static, 1) num_threads(layer->threads)
    for (int64_t thread = 0; thread < layer->threads; thread++) {
        Constants c;
        float states[TILE], given[BLOCK], spikes[BLOCK];
        int64_t end, first = share(layer, thread, &end), tile = tile_size(layer);
        for (; first < end; first += tile) {
            int64_t size = least(tile, end - first);
            for (int64_t t = 0; t < layer->steps; t++) {
                float decay = t + 1 < layer->steps ? layer->beta : 1.0f;
                for (int64_t i = 0; i < size; i += BLOCK) {
                    int64_t n = least(BLOCK, size - i), at = first + i;
                    int64_t here = t * layer->elements + at;
                    constants_at(layer, at, n, &c);
                    if (t == 0) begin(n, layer, &c, v ? v + at : NULL, states + i);
                    const float *drive = loaded(layer->bfloat16, x, t * x_stride + at, n, given);
                    float *to = place(layer->bfloat16 | layer->bypass, s, here, spikes);
                    fire(n, layer, &c, drive, states + i, decay, to, window ? window + here : NULL);
                    store_by(layer->bypass, layer->bfloat16, to, n, s, here);
                }
            }
            if (last) memcpy(last + first, states, (size_t)size * sizeof(float));
        }
        end_of_copies();
    }
}

/* What multispike_backward is given and gives; the same fields, in this order, are packed by spikes.py. */
typedef struct {
    const void *x; /* [T, elements], timesteps x_stride apart; NULL if the window tells all */
    int64_t x_stride;
    const float *v;      /* V[-1] [elements], or NULL */
    const uint8_t *window; /* [T, elements], or NULL: potentials are computed again from x and v */
    const void *grad;    /* dL/ds [T, elements], timesteps grad_stride apart */
    int64_t grad_stride;
    const float *grad_last; /* dL/dV[T-1] [elements], or NULL */
    void *grad_x;           /* dL/dx [T, elements] */
    float *grad_v;          /* dL/dV[-1] [elements], or NULL */
    double *threshold_sums; /* dL/dV_th is added to [threads, channels], or NULL */
    float *potentials;      /* room for them if there is no window: [threads, T, TILE] */
} Gradients;

/* What a thread keeps of a tile. */
typedef struct {
    float *potentials;  /* [T, TILE] */
    float states[TILE]; /* V forward, dL/dV backward */
    double *threshold_sums;
} Tile;

/* One block of one timestep of the backward; it begins at element i of the tile, `at` of the layer. */
INLINE void step_back(int64_t n, int64_t i, int64_t at, int64_t t, const Layer *layer,
                      const Gradients *g, Tile *tile) {
    Constants c;
    float slope[BLOCK], given[BLOCK], result[BLOCK];
    const float *potential = tile->potentials + t * TILE + i;
    float *state = tile->states + i;
    int64_t here = t * layer->elements + at, bfloat16 = layer->bfloat16;
    constants_at(layer, at, n, &c);
    const float *grad = loaded(bfloat16, g->grad, t * g->grad_stride + at, n, given);
    if (t + 1 == layer->steps)
        for (int64_t j = 0; j < n; j++) state[j] = g->grad_last ? g->grad_last[at + j] : 0.0f;
    if (tile->threshold_sums)
        add_threshold_gradient(n, layer, &c, at, grad, state, potential, slope,
                               tile->threshold_sums);
    if (g->window)
        for (int64_t j = 0; j < n; j++) slope[j] = g->window[here + j];
    else if (layer->bumps)
        bumps(n, layer, &c, potential, slope);
    else
        inside(n, layer, &c, potential, slope);
    float *to = place(bfloat16 | layer->bypass, g->grad_x, here, result);
    chain(n, layer, grad, slope, state, to);
    store_by(layer->bypass, bfloat16, to, n, g->grad_x, here);
    if (tile->threshold_sums && t == 0 && !g->v)
        add_start_gradient(n, layer, &c, at, to, slope, tile->threshold_sums);
}

void multispike_backward(const Layer *layer, const Gradients *g) {
    fill_constants(layer);
#pragma omp parallel for schedule(static, 1) num_threads(layer->threads)
    for (int64_t thread = 0; thread < layer->threads; thread++) {
        int64_t channels = layer->channels, steps = layer->steps;
        Constants c;
        Tile tile;
        float given[BLOCK];
        tile.potentials = g->potentials + thread * steps * TILE;
        tile.threshold_sums = g->threshold_sums ? g->threshold_sums + thread * channels : NULL;
        int64_t end, first = share(layer, thread, &end), whole = tile_size(layer);
        for (; first < end; first += whole) {
            int64_t size = least(whole, end - first);
            for (int64_t t = 0; t < steps && !g->window; t++) {
                for (int64_t i = 0; i < size; i += BLOCK) {
                    int64_t n = least(BLOCK, size - i), at = first + i;
                    constants_at(layer, at, n, &c);
                    if (t == 0) begin(n, layer, &c, g->v ? g->v + at : NULL, tile.states + i);
                    charge(n, layer, &c, loaded(layer->bfloat16, g->x, t * g->x_stride + at, n, given),
                           tile.states + i, tile.potentials + t * TILE + i, t + 1 < steps);
                }
            }
            for (int64_t t = steps - 1; t >= 0; t--) {
                for (int64_t i = 0; i < size; i += BLOCK)
                    step_back(least(BLOCK, size - i), i, first + i, t, layer, g, &tile);
            }
            if (g->grad_v) memcpy(g->grad_v + first, tile.states, (size_t)size * sizeof(float));
        }
        end_of_copies();
    }
}
