/* Multi-level integrate-and-fire neurons: all timesteps of a block of elements in one pass.
 *
 * Called by spikes.py, and by norm.py with a batch norm before the neurons. The arithmetic follows
 * surrogate.py and neurons.py operation by operation (no fused multiply-add, no reassociation), so
 * that spikes and potentials are the same bits as those of the eager code; only the sigmoid's sum is
 * evaluated in another way.
 */
#include "neurons.h"

/* z/N for z = #{k in 1..N : h >= V_th * k/N}. The scale is taken a little too small, by more than
 * all rounding errors together: the quotient is then z or z - 1, and one comparison settles it. */
INLINE float fraction(float h, float threshold, float scale, float levels) {
    float guess = floorf(h * (scale * (1.0f - 0x1p-20f)));
    guess = guess > 0.0f ? guess : 0.0f;
    guess = guess < levels - 1.0f ? guess : levels - 1.0f;
    float low = guess / levels, high = (guess + 1.0f) / levels;
    return h >= high * threshold ? high : low;
}

/* The n drives x of one timestep: as they lie there, converted, or normalised. */
INLINE const float *drive(int64_t n, const Layer *layer, const Constants *c, const void *x,
                          int64_t at, float *restrict raw, float *restrict room) {
    const float *given = loaded(layer->bfloat16, x, at, n, raw);
    if (!layer->normed) return given;
    const float *gain = c->row[GAIN], *offset = c->row[OFFSET];
    for (int64_t i = 0; i < n; i++) room[i] = given[i] * gain[i] + offset[i];
    return room;
}

/* V before the first timestep, leak applied. */
INLINE void begin(int64_t n, const Layer *layer, const Constants *c, const float *restrict given,
                  float *restrict v) {
    for (int64_t i = 0; i < n; i++) v[i] = given ? given[i] * layer->beta : c->row[REST][i];
}

/* One timestep of one block: x, v -> s and v * decay. `mask` (or NULL) is 1 in the window of the
 * gradient, 0 <= H <= V_th * reach. */
INLINE void fire(int64_t n, const Layer *layer, const Constants *c, const float *restrict x,
                 float *restrict v, float decay, float *restrict s, uint8_t *restrict mask) {
    const float *threshold = c->row[THRESHOLD], *scale = c->row[SCALE];
    float levels = (float)layer->levels, reach = layer->reach;
    for (int64_t i = 0; i < n; i++) {
        float h = x[i] + v[i];
        float spike = fraction(h, threshold[i], scale[i], levels) * threshold[i];
        spike = h == h ? spike : h; /* NaN stays NaN: a diverged run has to be seen */
        s[i] = spike;
        if (mask) mask[i] = (h >= 0.0f) & (h <= threshold[i] * reach);
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
    float alpha = layer->alpha, half = 0.5f * (float)(layer->window - 1);
    float last = (float)(layer->levels - layer->window + 1);
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
    if (layer->window == 1) { /* one bump, and w its u: no constants, one division less */
        for (int64_t i = 0; i < n; i++) {
            float e = exponential(-fabsf(w[i]));
            slope[i] = alpha * e / ((1.0f + e) * (1.0f + e));
        }
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        w[i] = exponential(w[i]);
        w_inverse[i] = 1.0f / w[i];
        slope[i] = 0.0f;
    }
    int64_t k = 0;
    for (; k + 2 <= layer->window; k += 2) {
        float rise = layer->rise[k], fall = layer->fall[k];
        float next_rise = layer->rise[k + 1], next_fall = layer->fall[k + 1];
        for (int64_t i = 0; i < n; i++) {
            float e = smaller(w[i] * rise, w_inverse[i] * fall);
            float next = smaller(w[i] * next_rise, w_inverse[i] * next_fall);
            float p = (1.0f + e) * (1.0f + e), q = (1.0f + next) * (1.0f + next);
            slope[i] += MULTIPLY_ADD(e, q, next * p) / (p * q);
        }
    }
    if (k < layer->window) {
        for (int64_t i = 0; i < n; i++) {
            float e = smaller(w[i] * layer->rise[k], w_inverse[i] * layer->fall[k]);
            slope[i] += e / ((1.0f + e) * (1.0f + e));
        }
    }
    for (int64_t i = 0; i < n; i++) slope[i] *= alpha;
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

/* What V_th does through the potential before the first timestep, REST, given dL/dH of that step. */
INLINE void add_rest_gradient(int64_t n, const Layer *layer, const Constants *c, int64_t at,
                              const float *restrict grad_h, float *restrict part,
                              double *restrict sums) {
    const float *threshold = c->row[THRESHOLD], *rest = c->row[REST];
    for (int64_t i = 0; i < n; i++) part[i] = grad_h[i] * (rest[i] / threshold[i]);
    add_to_channels(n, layer, at, part, sums);
}

/* x [T, elements], its timesteps x_stride apart -> s [T, elements]; v, mask and last may be NULL. */
void multispike_forward(const Layer *layer, const void *x, int64_t x_stride, const float *v, void *s,
                        uint8_t *mask, float *last) {
#pragma omp parallel for schedule(static, 1) num_threads(layer->threads)
    for (int64_t thread = 0; thread < layer->threads; thread++) {
        Constants c;
        float states[TILE], raw[BLOCK], drives[BLOCK], spikes[BLOCK];
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
                    float *to = place(layer->bfloat16 | layer->bypass, s, here, spikes);
                    fire(n, layer, &c, drive(n, layer, &c, x, t * x_stride + at, raw, drives),
                         states + i, decay, to, mask ? mask + here : NULL);
                    store_by(layer->bypass, layer->bfloat16, to, n, s, here);
                }
            }
            if (last) memcpy(last + first, states, (size_t)size * sizeof(float));
        }
        end_of_copies();
    }
}

/* What a thread keeps of a tile. */
typedef struct {
    float *potentials;    /* [T, TILE] */
    float states[TILE];   /* V forward, dL/dV backward */
    float total[TILE];    /* sum of dL/dx over T */
    double *threshold_sums;
} Tile;

/* One block of one timestep of the backward; it begins at element i of the tile, `at` of the layer. */
INLINE void step_back(int64_t n, int64_t i, int64_t at, int64_t t, const Layer *layer,
                      const Gradients *g, Tile *tile) {
    Constants c;
    float slope[BLOCK], given[BLOCK], result[BLOCK];
    const float *potential = tile->potentials + t * TILE + i;
    float *state = tile->states + i, *total = tile->total + i;
    int64_t here = t * layer->elements + at, bfloat16 = layer->bfloat16;
    int first = t + 1 == layer->steps;
    constants_at(layer, at, n, &c);
    const float *grad = loaded(bfloat16, g->grad, t * g->grad_stride + at, n, given), *grad_h;
    if (first)
        for (int64_t j = 0; j < n; j++) state[j] = g->grad_last ? g->grad_last[at + j] : 0.0f;
    if (tile->threshold_sums)
        add_threshold_gradient(n, layer, &c, at, grad, state, potential, slope,
                               tile->threshold_sums);
    if (g->mask)
        for (int64_t j = 0; j < n; j++) slope[j] = g->mask[here + j];
    else if (layer->window)
        bumps(n, layer, &c, potential, slope);
    else
        inside(n, layer, &c, potential, slope);
    if (g->constant) {
        chain(n, layer, grad, slope, state, result);
        for (int64_t j = 0; j < n; j++) total[j] = first ? result[j] : total[j] + result[j];
        grad_h = result;
    } else {
        int64_t bypass = layer->bypass && !g->norm_sums; /* which read grad_x again */
        float *to = place(bfloat16 | bypass, g->grad_x, here, result);
        chain(n, layer, grad, slope, state, to);
        store_by(bypass, bfloat16, to, n, g->grad_x, here);
        grad_h = to;
    }
    if (tile->threshold_sums && t == 0 && !g->v)
        add_rest_gradient(n, layer, &c, at, grad_h, slope, tile->threshold_sums);
}

void multispike_backward(const Layer *layer, const Gradients *g) {
#pragma omp parallel for schedule(static, 1) num_threads(layer->threads)
    for (int64_t thread = 0; thread < layer->threads; thread++) {
        int64_t channels = layer->channels, steps = layer->steps, bfloat16 = layer->bfloat16;
        Constants c;
        Tile tile;
        float raw[BLOCK], given[BLOCK];
        tile.potentials = g->room + thread * steps * TILE;
        tile.threshold_sums = g->threshold_sums ? g->threshold_sums + thread * channels : NULL;
        int64_t end, first = share(layer, thread, &end), whole = tile_size(layer);
        for (; first < end; first += whole) {
            int64_t size = least(whole, end - first);
            for (int64_t t = 0; t < steps && !g->mask; t++) {
                for (int64_t i = 0; i < size; i += BLOCK) {
                    int64_t n = least(BLOCK, size - i), at = first + i;
                    constants_at(layer, at, n, &c);
                    if (t == 0) begin(n, layer, &c, g->v ? g->v + at : NULL, tile.states + i);
                    charge(n, layer, &c, drive(n, layer, &c, g->x, t * g->x_stride + at, raw, given),
                           tile.states + i, tile.potentials + t * TILE + i, t + 1 < steps);
                }
            }
            for (int64_t t = steps - 1; t >= 0; t--) {
                for (int64_t i = 0; i < size; i += BLOCK)
                    step_back(least(BLOCK, size - i), i, first + i, t, layer, g, &tile);
            }
            for (int64_t i = 0; i < size && g->constant; i += BLOCK) {
                int64_t n = least(BLOCK, size - i);
                if (bfloat16)
                    store(1, tile.total + i, n, g->grad_x, first + i);
                else
                    memcpy((float *)g->grad_x + first + i, tile.total + i, (size_t)n * sizeof(float));
            }
            for (int64_t t = 0; t < (g->constant ? 1 : steps) && g->norm_sums; t++) {
                const float *mean = layer->constants + MEAN * layer->width;
                double *sums = g->norm_sums + thread * 2 * channels;
                int64_t here = t * layer->elements + first; /* in x too, which is dense here */
                if (bfloat16)
                    add_by_channel(layer, 1, size, g->grad_x, g->x, here, mean, sums);
                else
                    add_by_channel(layer, 0, size, g->grad_x, g->x, here, mean, sums);
            }
            if (g->grad_v) memcpy(g->grad_v + first, tile.states, (size_t)size * sizeof(float));
        }
        end_of_copies();
    }
}
