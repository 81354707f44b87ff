/* Multi-level integrate-and-fire neurons: all timesteps of a block of elements in one pass.
 *
 * Built and called by kernels.py. The arithmetic follows surrogate.py and neurons.py operation by
 * operation (no fused multiply-add, no reassociation), so that spikes and potentials are the same
 * bits as those of the eager code; only the sigmoid's sum is evaluated in another way.
 *
 * Drives, spikes and their gradients are float or bfloat16 in memory. All arithmetic is float, and so
 * are potentials from step to step: a bfloat16 layer is the float layer between two conversions.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__FP_FAST_FMAF) || defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define MULTIPLY_ADD(a, b, c) fmaf(a, b, c)
#else /* without the instruction fmaf is a slow library call */
#define MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#endif

/* Elements that go through all timesteps together: at most BLOCK, of which a dozen arrays stay in L1.
 * Not 1024: arrays at equal offsets in their 4 KiB pages make stores and loads wait for each other.
 * Short visits to each of the 3 T streams of several timesteps let the prefetcher keep up with them
 * (T = 4: up to twice as fast as with 256). */
#define BLOCK 256
#define BLOCK_OVER_TIME 96
#define INLINE static inline __attribute__((always_inline))

/* One layer of neurons; the same fields, in this order, stand in kernels.py. */
typedef struct {
    int64_t elements;  /* in one timestep, in memory order */
    int64_t steps;     /* T */
    int64_t channels;  /* number of thresholds: 1, or one a channel */
    int64_t inner;     /* memory distance between channels; all elements if there is one threshold */
    int64_t levels;    /* N */
    int64_t window;    /* how many bumps of the sigmoid's sum reach an element; 0 for windows */
    int64_t detach;    /* no gradient through the reset */
    int64_t bfloat16;  /* type of x, s and their gradients; else float */
    int64_t threads;
    float alpha, beta;
    float reach; /* end of the window of "ste" and "clip", in V_th */
    const float *constants; /* [4, channels]: rows as in Constants */
    const float *rise;      /* [window] exp(alpha * (c - k)), c the centre of the window */
    const float *fall;      /* [window] 1 / rise */
} Layer;

/* The constants of the elements of one block, spread out so that one loop serves all layouts. */
typedef struct {
    float threshold[BLOCK];
    float rest[BLOCK];       /* beta * V[-1] where no potential is passed in */
    float scale[BLOCK];      /* N/V_th, rounded, */
    float scale_rest[BLOCK]; /* and what the rounding took away */
} Constants;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* How many elements from `at` on lie in `*channel`, or, where channels are neighbours in memory
 * (inner = 1), in channels that count up from it. */
static int64_t run(const Layer *layer, int64_t at, int64_t *channel) {
    *channel = at / layer->inner % layer->channels;
    return layer->inner == 1 ? layer->channels - *channel : layer->inner - at % layer->inner;
}

static void spread(const Layer *layer, int64_t at, int64_t n, Constants *c) {
    float *rows[] = {c->threshold, c->rest, c->scale, c->scale_rest};
    int64_t channel, length;
    for (int64_t i = 0; i < n; i += length) {
        length = least(n - i, run(layer, at + i, &channel));
        for (int row = 0; row < 4; row++) {
            const float *from = layer->constants + row * layer->channels + channel;
            float *to = rows[row] + i;
            if (layer->inner == 1)
                memcpy(to, from, (size_t)length * sizeof(float));
            else
                for (int64_t j = 0; j < length; j++) to[j] = *from;
        }
    }
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

/* n values of x, s or a gradient as floats: where they lie, or converted into `room`. */
INLINE const float *loaded(const Layer *layer, const void *values, int64_t at, int64_t n,
                           float *restrict room) {
    if (!layer->bfloat16) return (const float *)values + at;
    const uint16_t *restrict from = (const uint16_t *)values + at;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)from[i] << 16;
        memcpy(&room[i], &bits, sizeof bits);
    }
    return room;
}

/* Where to put such values, to be followed by `store`. */
INLINE float *place(const Layer *layer, void *values, int64_t at, float *room) {
    return layer->bfloat16 ? room : (float *)values + at;
}

/* Rounds what was put into `room` to the nearest bfloat16, ties to even; NaN stays NaN. */
INLINE void store(const Layer *layer, const float *restrict room, int64_t n, void *values,
                  int64_t at) {
    if (!layer->bfloat16) return;
    uint16_t *restrict to = (uint16_t *)values + at;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &room[i], sizeof bits);
        uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        to[i] = (uint16_t)(room[i] == room[i] ? rounded : 0x7fc0);
    }
}

/* V before the first timestep, leak applied. */
INLINE void begin(int64_t n, const Layer *layer, const Constants *c, const float *restrict given,
                  float *restrict v) {
    for (int64_t i = 0; i < n; i++) v[i] = given ? given[i] * layer->beta : c->rest[i];
}

/* One timestep of one block: x, v -> s and v * decay. `mask` (or NULL) is 1 where 0 <= H <= V_th * reach. */
INLINE void fire(int64_t n, const Layer *layer, const Constants *c, const float *restrict x,
                 float *restrict v, float decay, float *restrict s, uint8_t *restrict mask) {
    float levels = (float)layer->levels;
    for (int64_t i = 0; i < n; i++) {
        float h = x[i] + v[i];
        float spike = fraction(h, c->threshold[i], c->scale[i], levels) * c->threshold[i];
        spike = h == h ? spike : h; /* NaN stays NaN: a diverged run has to be seen */
        s[i] = spike;
        if (mask) mask[i] = (h >= 0.0f) & (h <= c->threshold[i] * layer->reach);
        v[i] = (h - spike) * decay;
    }
}

/* One timestep of one block without its spikes: x, v -> H and v * beta. */
INLINE void charge(int64_t n, const Layer *layer, const Constants *c, const float *restrict x,
                   float *restrict v, float *restrict potential, int fires) {
    float levels = (float)layer->levels, beta = layer->beta;
    for (int64_t i = 0; i < n; i++) {
        float h = x[i] + v[i];
        potential[i] = h;
        if (fires)
            v[i] = (h - fraction(h, c->threshold[i], c->scale[i], levels) * c->threshold[i]) * beta;
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

/* The sigmoid's slope, the sum over k of alpha * b_k with b_k = s(u_k) (1 - s(u_k)) and
 * u_k = alpha (h/D - k), D = V_th/N. With e = exp(-|u_k|) a bump is e / (1 + e)^2. Around a centre c,
 * e = min(w rise_k, fall_k / w), where w = exp(alpha (h/D - c)) is the one exponential of an element
 * and rise_k = exp(alpha (c - k)) = 1/fall_k are constants. Bumps outside of the window of levels
 * nearest to h would add less than a rounding error. */
INLINE void bumps(int64_t n, const Layer *layer, const Constants *c,
                  const float *restrict potential, float *restrict slope) {
    float w[BLOCK], w_inverse[BLOCK];
    float alpha = layer->alpha, half = 0.5f * (float)(layer->window - 1);
    float last = (float)(layer->levels - layer->window + 1);
    for (int64_t i = 0; i < n; i++) {
        float h = potential[i], in_levels = h * c->scale[i];
        float first = floorf(in_levels - half + 0.5f);
        first = first > 1.0f ? first : 1.0f;
        first = first < last ? first : last;
        float offset = MULTIPLY_ADD(h, c->scale[i], -(first + half));
        offset = alpha * MULTIPLY_ADD(h, c->scale_rest[i], offset);
        offset = offset > -80.0f ? offset : -80.0f;
        offset = offset < 80.0f ? offset : 80.0f;
        w[i] = exponential(offset);
        w_inverse[i] = 1.0f / w[i];
        slope[i] = 0.0f;
    }
    for (int64_t k = 0; k < layer->window; k++) {
        for (int64_t i = 0; i < n; i++) {
            float a = w[i] * layer->rise[k], b = w_inverse[i] * layer->fall[k];
            float e = a < b ? a : b;
            slope[i] += e / ((1.0f + e) * (1.0f + e));
        }
    }
    for (int64_t i = 0; i < n; i++) slope[i] *= alpha;
}

INLINE void inside(int64_t n, const Layer *layer, const Constants *c, const float *restrict potential,
                   float *restrict slope) {
    for (int64_t i = 0; i < n; i++)
        slope[i] = potential[i] >= 0.0f && potential[i] <= c->threshold[i] * layer->reach ? 1.0f : 0.0f;
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

/* dL/dV_th of one timestep, added to sums [channels]; the gradient of LSQ and PACT: z/N - h/V_th
 * inside [0, V_th], 1 above, 0 below. */
INLINE void add_threshold_gradient(int64_t n, const Layer *layer, const Constants *c, int64_t at,
                                   const float *restrict grad, const float *restrict grad_v,
                                   const float *restrict potential, float *restrict part,
                                   double *restrict sums) {
    float levels = (float)layer->levels;
    for (int64_t i = 0; i < n; i++) {
        float h = potential[i], ratio = h / c->threshold[i];
        float slope = fraction(h, c->threshold[i], c->scale[i], levels) - ratio;
        slope = ratio > 1.0f ? 1.0f : slope;
        slope = ratio < 0.0f ? 0.0f : slope;
        part[i] = (layer->detach ? grad[i] : grad[i] - grad_v[i]) * slope;
    }
    int64_t channel, length;
    for (int64_t i = 0; i < n; i += length) {
        length = least(n - i, run(layer, at + i, &channel));
        if (layer->inner == 1) {
            for (int64_t j = 0; j < length; j++) sums[channel + j] += part[i + j];
        } else {
            double sum = 0.0;
#pragma omp simd reduction(+ : sum)
            for (int64_t j = 0; j < length; j++) sum += part[i + j];
            sums[channel] += sum;
        }
    }
}

/* Elements that a thread works on at a time; at most BLOCK. */
static int64_t block_size(const Layer *layer) {
    return least(layer->elements, layer->steps > 1 ? BLOCK_OVER_TIME : BLOCK);
}

/* For kernels.py: floats a timestep and thread in the `room` of multispike_backward. */
const int64_t multispike_block = BLOCK;

/* The elements that one of the threads works on: whole blocks, [first, end). */
static int64_t share(const Layer *layer, int64_t thread, int64_t *end) {
    int64_t block = block_size(layer), blocks = (layer->elements + block - 1) / block;
    *end = least(layer->elements, blocks * (thread + 1) / layer->threads * block);
    return blocks * thread / layer->threads * block;
}

/* x [T, elements], its timesteps x_stride apart -> s [T, elements]; v, mask and last may be NULL. */
void multispike_forward(const Layer *layer, const void *x, int64_t x_stride, const float *v, void *s,
                        uint8_t *mask, float *last) {
    if (!layer->elements) return;
#pragma omp parallel for schedule(static, 1) num_threads(layer->threads)
    for (int64_t thread = 0; thread < layer->threads; thread++) {
        Constants c;
        float state[BLOCK], drives[BLOCK], spikes[BLOCK];
        int64_t end, at = share(layer, thread, &end), block = block_size(layer);
        if (layer->channels == 1) spread(layer, 0, BLOCK, &c);
        for (; at < end; at += block) {
            int64_t n = least(block, end - at);
            if (layer->channels > 1) spread(layer, at, n, &c);
            begin(n, layer, &c, v ? v + at : NULL, state);
            for (int64_t t = 0; t < layer->steps; t++) {
                int64_t here = t * layer->elements + at;
                float decay = t + 1 < layer->steps ? layer->beta : 1.0f;
                fire(n, layer, &c, loaded(layer, x, t * x_stride + at, n, drives), state, decay,
                     place(layer, s, here, spikes), mask ? mask + here : NULL);
                store(layer, spikes, n, s, here);
            }
            if (last) memcpy(last + at, state, (size_t)n * sizeof(float));
        }
    }
}

/* dL/ds [T, elements] and dL/dV[T-1] (or NULL) -> dL/dx [T, elements], dL/dV[-1] (or NULL), and
 * dL/dV_th added to grad_threshold [threads, channels] (or NULL). The slopes come from the mask, or
 * else from the potentials, which are computed again from x and v and wait in `room`
 * [threads, T, multispike_block or all elements if they are fewer] for their turn. */
void multispike_backward(const Layer *layer, const void *x, int64_t x_stride, const float *v,
                         const uint8_t *mask, const void *grad, int64_t grad_stride,
                         const float *grad_last, void *grad_x, float *grad_v,
                         double *grad_threshold, float *room) {
    if (!layer->elements) return;
#pragma omp parallel for schedule(static, 1) num_threads(layer->threads)
    for (int64_t thread = 0; thread < layer->threads; thread++) {
        Constants c;
        float state[BLOCK], slope[BLOCK], given[BLOCK], result[BLOCK];
        int64_t end, at = share(layer, thread, &end), block = block_size(layer);
        float *potentials = room + thread * layer->steps * block;
        if (layer->channels == 1) spread(layer, 0, BLOCK, &c);
        for (; at < end; at += block) {
            int64_t n = least(block, end - at);
            if (layer->channels > 1) spread(layer, at, n, &c);
            begin(n, layer, &c, v ? v + at : NULL, state);
            for (int64_t t = 0; t < layer->steps && !mask; t++)
                charge(n, layer, &c, loaded(layer, x, t * x_stride + at, n, given), state,
                       potentials + t * block, t + 1 < layer->steps);
            for (int64_t i = 0; i < n; i++) state[i] = grad_last ? grad_last[at + i] : 0.0f;
            for (int64_t t = layer->steps - 1; t >= 0; t--) {
                int64_t here = t * layer->elements + at;
                const float *potential = potentials + t * block;
                const float *grad_s = loaded(layer, grad, t * grad_stride + at, n, given);
                if (grad_threshold)
                    add_threshold_gradient(n, layer, &c, at, grad_s, state, potential, slope,
                                           grad_threshold + thread * layer->channels);
                if (mask)
                    for (int64_t i = 0; i < n; i++) slope[i] = mask[here + i];
                else if (layer->window)
                    bumps(n, layer, &c, potential, slope);
                else
                    inside(n, layer, &c, potential, slope);
                chain(n, layer, grad_s, slope, state, place(layer, grad_x, here, result));
                store(layer, result, n, grad_x, here);
            }
            if (grad_v) memcpy(grad_v + at, state, (size_t)n * sizeof(float));
        }
    }
}
