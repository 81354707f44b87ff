#include "kernels.h"

#include <stddef.h>

#ifdef COUNT
static void count(counts_t *counts, long value, long operations)
{
    if (value != 0) {
        counts->events += 1;
        counts->amplitude += value;
    }
    counts->operations += operations;
}
#define COUNT_SYNAPSES(id, value, operations) count(&synapse_counts[id], value, operations)
#define COUNT_NEURON(id, level) count(&neuron_counts[id], level, 1)
#else
#define COUNT_SYNAPSES(id, value, operations) ((void)0)
#define COUNT_NEURON(id, level) ((void)0)
#endif

int shape_size(shape_t shape)
{
    return shape.channels * shape.rows * shape.columns;
}

void channels_last(uint8_t *z, const uint8_t *input, shape_t shape)
{
    const int area = shape.rows * shape.columns;
    for (int i = 0; i < area; ++i)
        for (int c = 0; c < shape.channels; ++c)
            *z++ = input[c * area + i];
}

/* ---- potentials ---- */

void clear(int32_t *v, shape_t shape)
{
    const int size = shape_size(shape);
    for (int i = 0; i < size; ++i)
        v[i] = 0;
}

void set_channels(int32_t *v, const int32_t *values, shape_t shape)
{
    for (int i = 0; i < shape.rows * shape.columns; ++i)
        for (int c = 0; c < shape.channels; ++c)
            *v++ = values[c];
}

void set_bias(int32_t *v, bias_t bias, shape_t shape)
{
    clear(v, shape);
    add_bias(v, bias, shape);
}

void add_bias(int32_t *v, bias_t bias, shape_t shape)
{
    for (int y = 0; y < shape.rows; ++y)
        for (int x = 0; x < shape.columns; ++x) {
            const int32_t *values = bias.values;
            if (bias.rows != NULL)
                values += (bias.rows[y] * bias.column_classes + bias.columns[x]) * shape.channels;
            for (int c = 0; c < shape.channels; ++c)
                *v++ += values[c];
        }
}

void add_drive(int32_t *v, const int32_t *drive, shape_t shape)
{
    const int size = shape_size(shape);
    for (int i = 0; i < size; ++i)
        v[i] += drive[i];
}

/* ---- synapses ---- */

/* v[c] += weight[c] * value: where nearly all time is spent. Bytes may alias anything unless told
 * otherwise, and a compiler would check that before each vector loop. */
static void accumulate(int32_t *restrict v, const int8_t *restrict weight, int32_t value,
                       int channels)
{
    for (int c = 0; c < channels; ++c)
        v[c] += weight[c] * value;
}

#ifndef DENSE
/* One event at (x, y) adds its weights to every potential that its kernel reaches. Of the kernel
 * positions only each `stride`-th meets an output; the first one does so at (y + padding) / stride
 * and each next one a row before. */
static void scatter(int32_t *v, const conv_t *conv, const int8_t *weight, int y, int x, int value)
{
    const int channels = conv->out.channels;
    const int first_row = (y + conv->padding) / conv->stride;
    const int first_column = (x + conv->padding) / conv->stride;
    int row = first_row;
    for (int ky = (y + conv->padding) % conv->stride; ky < conv->kernel_rows && row >= 0;
         ky += conv->stride, --row) {
        if (row >= conv->out.rows)
            continue;
        int column = first_column;
        for (int kx = (x + conv->padding) % conv->stride; kx < conv->kernel_columns && column >= 0;
             kx += conv->stride, --column) {
            if (column >= conv->out.columns)
                continue;
            accumulate(v + (row * conv->out.columns + column) * channels,
                       weight + (ky * conv->kernel_columns + kx) * channels, value, channels);
            COUNT_SYNAPSES(conv->id, 0, channels);
        }
    }
    COUNT_SYNAPSES(conv->id, value, 0);
}

void conv_events(int32_t *v, const conv_t *conv, const uint8_t *z)
{
    const int fan = conv->kernel_rows * conv->kernel_columns * conv->out.channels;
    for (int y = 0; y < conv->in.rows; ++y)
        for (int x = 0; x < conv->in.columns; ++x)
            for (int c = 0; c < conv->in.channels; ++c, ++z)
                if (*z != 0)
                    scatter(v, conv, conv->weight + c * fan, y, x, *z);
}

#else
void conv_events(int32_t *v, const conv_t *conv, const uint8_t *z)
{
    const int channels = conv->out.channels;
    const int taps = conv->kernel_rows * conv->kernel_columns;
    for (int row = 0; row < conv->out.rows; ++row)
        for (int column = 0; column < conv->out.columns; ++column, v += channels)
            for (int tap = 0; tap < taps; ++tap) {
                const int y = row * conv->stride - conv->padding + tap / conv->kernel_columns;
                const int x = column * conv->stride - conv->padding + tap % conv->kernel_columns;
                if (y < 0 || y >= conv->in.rows || x < 0 || x >= conv->in.columns)
                    continue;
                const uint8_t *input = z + (y * conv->in.columns + x) * conv->in.channels;
                for (int c = 0; c < conv->in.channels; ++c) {
                    accumulate(v, conv->weight + (c * taps + tap) * channels, input[c], channels);
                    COUNT_SYNAPSES(conv->id, 0, channels);
                }
            }
}
#endif

/* Potentials are dense, so the shortcut convolution of MS-ResNet skips nothing. It is 1x1. */
void conv_potentials(int32_t *v, const conv_t *conv, const int16_t *p)
{
    const int channels = conv->out.channels;
    for (int row = 0; row < conv->out.rows; ++row)
        for (int column = 0; column < conv->out.columns; ++column, v += channels) {
            const int pixel = (row * conv->in.columns + column) * conv->stride;
            for (int c = 0; c < conv->in.channels; ++c) {
                const int16_t value = p[pixel * conv->in.channels + c];
                accumulate(v, conv->weight + c * channels, value, channels);
                COUNT_SYNAPSES(conv->id, 0, value != 0 ? channels : 0);
            }
        }
#ifdef COUNT
    /* Also where the stride passes by an input, it is one. */
    for (int i = 0; i < shape_size(conv->in); ++i)
        COUNT_SYNAPSES(conv->id, p[i], 0);
#endif
}

void linear_sums(int32_t *v, const conv_t *linear, const int32_t *sums)
{
    const int channels = linear->out.channels;
    for (int c = 0; c < linear->in.channels; ++c)
        if (sums[c] != 0) {
            accumulate(v, linear->weight + c * channels, sums[c], channels);
            COUNT_SYNAPSES(linear->id, sums[c], channels);
        }
}

void add_levels(int32_t *v, const identity_t *identity, const uint8_t *z)
{
    const shape_t shape = identity->shape;
    for (int i = 0; i < shape.rows * shape.columns; ++i)
        for (int c = 0; c < shape.channels; ++c, ++v, ++z)
            if (*z != 0) {
                *v += identity->gain[c] * *z;
                COUNT_SYNAPSES(identity->id, *z, 1);
            }
}

void add_potentials(int32_t *v, const identity_t *identity, const int16_t *p)
{
    const shape_t shape = identity->shape;
    for (int i = 0; i < shape.rows * shape.columns; ++i)
        for (int c = 0; c < shape.channels; ++c, ++v, ++p) {
            *v += identity->gain[c] * *p;
            COUNT_SYNAPSES(identity->id, *p, *p != 0);
        }
}

void add_signed(int32_t *v, const int32_t *drive, const int32_t *sign, shape_t shape)
{
    for (int i = 0; i < shape.rows * shape.columns; ++i)
        for (int c = 0; c < shape.channels; ++c)
            *v++ += sign[c] * *drive++;
}

/* floor((x + 2^(shift-1)) / 2^shift) without shifting a negative number. */
static int32_t shifted(int32_t x, int shift)
{
    if (shift <= 0)
        return x * ((int32_t)1 << -shift);
    x += (int32_t)1 << (shift - 1);
    return x >= 0 ? x >> shift : ~(~x >> shift);
}

void add_shifted(int32_t *v, const int32_t *drive, const int32_t *shift, shape_t shape)
{
    for (int i = 0; i < shape.rows * shape.columns; ++i)
        for (int c = 0; c < shape.channels; ++c)
            *v++ += shifted(*drive++, (int)shift[c]);
}

/* ---- neurons ---- */

void fire(uint8_t *z, int32_t *v, const neurons_t *neurons)
{
    const shape_t shape = neurons->shape;
    for (int i = 0; i < shape.rows * shape.columns; ++i)
        for (int c = 0; c < shape.channels; ++c, ++v) {
            const int32_t step = neurons->step[c];
            int32_t h = *v;
            int level = 0;
            while (level < neurons->levels && h >= step) {
                h -= step;
                ++level;
            }
            *v = h;
            *z++ = (uint8_t)level;
            COUNT_NEURON(neurons->id, level);
        }
}

void saturate(int16_t *p, const int32_t *v, shape_t shape)
{
    const int size = shape_size(shape);
    for (int i = 0; i < size; ++i)
        p[i] = (int16_t)(v[i] > INT16_MAX ? INT16_MAX : v[i] < INT16_MIN ? INT16_MIN : v[i]);
}

/* ---- levels ---- */

void merge_add(uint8_t *z, const uint8_t *path, const uint8_t *shortcut, shape_t shape)
{
    const int size = shape_size(shape);
    for (int i = 0; i < size; ++i)
        z[i] = (uint8_t)(path[i] + shortcut[i]);
}

void merge_and(uint8_t *z, const uint8_t *path, const uint8_t *shortcut, shape_t shape)
{
    const int size = shape_size(shape);
    for (int i = 0; i < size; ++i)
        z[i] = path[i] && shortcut[i];
}

void merge_iand(uint8_t *z, const uint8_t *path, const uint8_t *shortcut, shape_t shape)
{
    const int size = shape_size(shape);
    for (int i = 0; i < size; ++i)
        z[i] = !path[i] && shortcut[i];
}

/* An odd last row or column makes a window of its own. Output never overtakes input, hence the two
 * may be one buffer. */
#define DEFINE_MAX_POOL(name, type)                                                                \
    void name(type *out, const type *in, shape_t shape)                                            \
    {                                                                                              \
        for (int y = 0; y < shape.rows; y += 2)                                                    \
            for (int x = 0; x < shape.columns; x += 2)                                             \
                for (int c = 0; c < shape.channels; ++c) {                                         \
                    type most = in[(y * shape.columns + x) * shape.channels + c];                  \
                    for (int i = y; i < y + 2 && i < shape.rows; ++i)                              \
                        for (int j = x; j < x + 2 && j < shape.columns; ++j) {                     \
                            const type one = in[(i * shape.columns + j) * shape.channels + c];     \
                            most = one > most ? one : most;                                        \
                        }                                                                          \
                    *out++ = most;                                                                 \
                }                                                                                  \
    }

DEFINE_MAX_POOL(max_pool, uint8_t)
DEFINE_MAX_POOL(max_pool_potentials, int16_t)
DEFINE_MAX_POOL(max_pool_drive, int32_t)

void global_sum(int32_t *sums, const uint8_t *z, shape_t shape)
{
    for (int c = 0; c < shape.channels; ++c)
        sums[c] = 0;
    for (int i = 0; i < shape.rows * shape.columns; ++i)
        for (int c = 0; c < shape.channels; ++c)
            sums[c] += *z++;
}
