/* Batch norm with neurons behind it: called by norm.py.
 *
 * The neurons' own passes normalise their drives, and backward they add up what the batch norm's
 * gradient needs. What is left is here: the statistics before, and the last step of the gradient.
 */
#include "neurons.h"

/* The same fields, in this order, stand in norm.py. */
typedef struct {
    const float *weight, *bias; /* [channels] */
    double eps;
    const float *neuron_rows; /* [4, neuron_width]: constants of the neurons, for each channel or, */
    int64_t neuron_width;     /* with neuron_step = 0, one for all */
    int64_t neuron_step;
    float *table;      /* [ROWS, width], to be filled: the layer's constants; backward a copy of them */
    double *sums;      /* [threads, 2, channels], zeros */
    double *factors;   /* [2, channels], to be filled: weight/sqrt(variance + eps), and 1/sqrt() */
    float *statistics; /* [2, channels], to be filled: mean, and variance without bias */
} Norm;

/* All timesteps as one: their values lie one after the other. */
static Layer whole(const Layer *layer, int64_t constant) {
    Layer all = *layer;
    all.elements *= constant ? 1 : layer->steps;
    all.steps = 1;
    return all;
}

/* Adds the sums [2, channels] of all threads to those of the first. */
static void gather(const Layer *layer, double *sums) {
    int64_t size = 2 * layer->channels;
    for (int64_t thread = 1; thread < layer->threads; thread++)
        for (int64_t i = 0; i < size; i++) sums[i] += sums[thread * size + i];
}

/* Where channels are neighbours in memory, blocks read on behind the last of them. */
static void repeat(const Layer *layer, float *row) {
    if (layer->inner == 1)
        for (int64_t i = layer->channels; i < layer->width; i++) row[i] = row[i - layer->channels];
}

/* Of every channel the sum of its values and of their squares. */
static void add_moments(const Layer *layer, const void *x, const float *zeros, double *sums) {
#pragma omp parallel for schedule(static, 1) num_threads(layer->threads)
    for (int64_t thread = 0; thread < layer->threads; thread++) {
        double *own = sums + thread * 2 * layer->channels;
        int64_t end, at = share(layer, thread, &end), n;
        for (; at < end; at += n) {
            n = least(tile_size(layer), end - at);
            if (layer->bfloat16)
                add_by_channel(layer, 1, n, x, x, at, zeros, own);
            else
                add_by_channel(layer, 0, n, x, x, at, zeros, own);
        }
    }
}

/* x [T, elements], or with `constant` [elements] for all timesteps -> s, mask [T, elements]. */
void multispike_norm_forward(const Layer *layer, const Norm *norm, const void *x, int64_t constant,
                             void *s, uint8_t *mask) {
    int64_t channels = layer->channels, width = layer->width;
    Layer all = whole(layer, constant);
    double count = (double)(all.elements / channels);
    float *mean = norm->table + MEAN * width, *gain = norm->table + GAIN * width;
    float *offset = norm->table + OFFSET * width;
    for (int64_t i = 0; i < channels; i++) mean[i] = 0.0f;
    add_moments(&all, x, mean, norm->sums);
    gather(layer, norm->sums);
    for (int64_t i = 0; i < channels; i++) {
        double middle = norm->sums[i] / count;
        double variance = norm->sums[channels + i] / count - middle * middle;
        variance = variance > 0.0 || variance != variance ? variance : 0.0;
        double inverse = 1.0 / sqrt(variance + norm->eps), factor = norm->weight[i] * inverse;
        norm->statistics[i] = (float)middle;
        norm->statistics[channels + i] = (float)(variance * count / (count - 1.0));
        norm->factors[i] = factor;
        norm->factors[channels + i] = inverse;
        mean[i] = (float)middle;
        gain[i] = (float)factor;
        offset[i] = (float)(norm->bias[i] - middle * factor);
        for (int64_t row = 0; row < MEAN; row++)
            norm->table[row * width + i] =
                norm->neuron_rows[row * norm->neuron_width + i * norm->neuron_step];
    }
    for (int64_t row = 0; row < ROWS; row++) repeat(layer, norm->table + row * width);
    multispike_forward(layer, x, constant ? 0 : layer->elements, NULL, s, mask, NULL);
}

/* dL/ds -> dL/dx, and dL/dgamma and dL/dbeta in `grad_weight` and `grad_bias` [channels]. `g` is
 * that of the neurons. */
void multispike_norm_backward(const Layer *layer, const Norm *norm, const Gradients *g,
                              float *grad_weight, float *grad_bias) {
    int64_t channels = layer->channels, width = layer->width;
    Layer all = whole(layer, g->constant);
    double count = (double)(all.elements / channels);
    all.constants = norm->table;
    float *slope = norm->table + SCALE * width, *offset = norm->table + OFFSET * width;
    multispike_backward(layer, g);
    gather(layer, g->norm_sums);
    for (int64_t i = 0; i < channels; i++) {
        double factor = norm->factors[i], inverse = norm->factors[channels + i];
        double sum = g->norm_sums[i], product = g->norm_sums[channels + i] * inverse;
        grad_bias[i] = (float)sum;
        grad_weight[i] = (float)product;
        slope[i] = (float)(-factor * inverse * product / count);
        offset[i] = (float)(-factor * sum / count);
    }
    repeat(layer, slope);
    repeat(layer, offset);
#pragma omp parallel for schedule(static, 1) num_threads(layer->threads)
    for (int64_t thread = 0; thread < layer->threads; thread++) {
        Constants c;
        float raw[BLOCK], given[BLOCK], result[BLOCK];
        int64_t end, at = share(&all, thread, &end), n;
        for (; at < end; at += n) {
            n = least(BLOCK, end - at);
            constants_at(&all, at, n, &c);
            const float *values = loaded(all.bfloat16, g->x, at, n, raw);
            const float *grad = loaded(all.bfloat16, g->grad_x, at, n, given);
            const float *scale = c.row[SCALE], *shift = c.row[OFFSET], *gain = c.row[GAIN];
            const float *mean = c.row[MEAN];
            for (int64_t i = 0; i < n; i++)
                result[i] = gain[i] * grad[i] + (scale[i] * (values[i] - mean[i]) + shift[i]);
            if (all.bfloat16)
                store(1, result, n, g->grad_x, at);
            else
                memcpy((float *)g->grad_x + at, result, (size_t)n * sizeof(float));
        }
    }
}
