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

/* The same for the `row`-th run of weights, zeros stored or not. */
static void add_run(int32_t *v, const conv_t *conv, int row, int run, int32_t value)
{
    if (conv->first == NULL) {
        accumulate(v, conv->weight + row * run, value, run);
        COUNT_SYNAPSES(conv->id, 0, value != 0 ? run : 0);
        return;
    }
    for (int i = conv->first[row]; i < conv->first[row + 1]; ++i) {
        v += conv->gap[i];
        *v++ += conv->weight[i] * value;
        COUNT_SYNAPSES(conv->id, 0, conv->weight[i] != 0 && value != 0);
    }
}

/* The first of a kernel's taps that meets the input at `at`, counted with the padding, or `step`: from
 * there on, each step-th does. */
static int first_tap(int at, int stride, int dilation, int step)
{
    int tap = 0;
    while (tap < step && (at - tap * dilation) % stride != 0)
        ++tap;
    return tap;
}

/* One event at (y, x) adds its weights, from run `taps` on, to every potential that its kernel
 * reaches. */
static void scatter(int32_t *v, const conv_t *conv, int taps, int y, int x, int32_t value)
{
    const window_t *w = &conv->window;
    const pair_t step = conv->tap_step, drop = conv->place_step;
    const int run = conv->out.channels / conv->groups;
    const int at_row = y + w->before.rows, at_column = x + w->before.columns;
    const int first_row = first_tap(at_row, w->stride.rows, w->dilation.rows, step.rows);
    const int first = first_tap(at_column, w->stride.columns, w->dilation.columns, step.columns);
    const int last = (at_column - first * w->dilation.columns) / w->stride.columns;
    int row = (at_row - first_row * w->dilation.rows) / w->stride.rows;
    if (first == step.columns || first_row == step.rows)
        return;
    for (int ky = first_row; ky < w->kernel.rows && row >= 0; ky += step.rows, row -= drop.rows) {
        if (row >= conv->out.rows)
            continue;
        int column = last;
        for (int kx = first; kx < w->kernel.columns && column >= 0;
             kx += step.columns, column -= drop.columns) {
            if (column >= conv->out.columns)
                continue;
            add_run(v + (row * conv->out.columns + column) * conv->out.channels, conv,
                    taps + ky * w->kernel.columns + kx, run, value);
        }
    }
}

#define DEFINE_SCATTER(name, type)                                                                 \
    void name(int32_t *v, const conv_t *conv, const type *in)                                      \
    {                                                                                              \
        const int run = conv->out.channels / conv->groups;                                         \
        const int fan = conv->window.kernel.rows * conv->window.kernel.columns;                    \
        const int members = conv->in.channels / conv->groups;                                      \
        for (int y = 0; y < conv->in.rows; ++y)                                                    \
            for (int x = 0; x < conv->in.columns; ++x) {                                           \
                int taps = 0;                                                                      \
                for (int g = 0; g < conv->groups; ++g)                                             \
                    for (int c = 0; c < members; ++c, ++in, taps += fan)                           \
                        if (*in != 0) {                                                            \
                            scatter(v + g * run, conv, taps, y, x, *in);                           \
                            COUNT_SYNAPSES(conv->id, *in, 0);                                      \
                        }                                                                          \
            }                                                                                      \
    }

/* All inputs of the output at (row, column), zero or not, one after the other. */
#define DEFINE_GATHER(name, type)                                                                  \
    static void gather_##name(int32_t *v, const conv_t *conv, const type *in, int row, int column) \
    {                                                                                              \
        const window_t *w = &conv->window;                                                         \
        const int run = conv->out.channels / conv->groups;                                         \
        const int members = conv->in.channels / conv->groups;                                      \
        const int taps = w->kernel.rows * w->kernel.columns;                                       \
        for (int tap = 0; tap < taps; ++tap) {                                                     \
            const int y = row * w->stride.rows - w->before.rows                                    \
                          + tap / w->kernel.columns * w->dilation.rows;                            \
            const int x = column * w->stride.columns - w->before.columns                           \
                          + tap % w->kernel.columns * w->dilation.columns;                         \
            if (y < 0 || y >= conv->in.rows || x < 0 || x >= conv->in.columns)                     \
                continue;                                                                          \
            const type *input = in + (y * conv->in.columns + x) * conv->in.channels;               \
            for (int i = 0; i < conv->in.channels; ++i)                                            \
                add_run(v + i / members * run, conv, i * taps + tap, run, input[i]);               \
        }                                                                                          \
    }                                                                                              \
    void name(int32_t *v, const conv_t *conv, const type *in)                                      \
    {                                                                                              \
        for (int row = 0; row < conv->out.rows; ++row)                                             \
            for (int column = 0; column < conv->out.columns; ++column, v += conv->out.channels)    \
                gather_##name(v, conv, in, row, column);                                           \
        for (int i = 0; i < shape_size(conv->in); ++i)                                             \
            COUNT_SYNAPSES(conv->id, in[i], 0);                                                    \
    }

#ifdef DENSE
DEFINE_GATHER(conv_events, uint8_t)
#else
DEFINE_SCATTER(conv_events, uint8_t)
#endif
DEFINE_GATHER(conv_potentials, int16_t) /* they are seldom 0 */
DEFINE_SCATTER(conv_sums, int32_t)

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

#define DEFINE_PLACE(name, type)                                                                   \
    void name(type *out, const type *in, shape_t shape, int channels, int first)                   \
    {                                                                                              \
        for (int i = 0; i < shape.rows * shape.columns; ++i)                                       \
            for (int c = 0; c < shape.channels; ++c)                                               \
                out[i * channels + first + c] = *in++;                                             \
    }

DEFINE_PLACE(place_levels, uint8_t)
DEFINE_PLACE(place_potentials, int16_t)
DEFINE_PLACE(place_sums, int32_t)

/* `update` puts each input inside, `one`, to what is `found`. Where windows neither overlap nor begin
 * beyond the image, output never overtakes input: the two may be one buffer. */
#define DEFINE_POOL(name, to, from, start, update)                                                 \
    void name(to *out, const from *in, const pool_t *pool)                                         \
    {                                                                                              \
        const window_t *w = &pool->window;                                                         \
        const int channels = pool->in.channels;                                                    \
        for (int row = 0; row < pool->out.rows; ++row)                                             \
            for (int column = 0; column < pool->out.columns; ++column)                             \
                for (int c = 0; c < channels; ++c) {                                               \
                    const int top = row * w->stride.rows - w->before.rows;                         \
                    const int left = column * w->stride.columns - w->before.columns;               \
                    to found = start;                                                              \
                    for (int ky = 0; ky < w->kernel.rows; ++ky)                                    \
                        for (int kx = 0; kx < w->kernel.columns; ++kx) {                           \
                            const int y = top + ky * w->dilation.rows;                             \
                            const int x = left + kx * w->dilation.columns;                         \
                            if (y < 0 || y >= pool->in.rows || x < 0 || x >= pool->in.columns)     \
                                continue;                                                          \
                            const from one = in[(y * pool->in.columns + x) * channels + c];        \
                            update;                                                                \
                        }                                                                          \
                    *out++ = found;                                                                \
                }                                                                                  \
    }

DEFINE_POOL(max_pool, uint8_t, uint8_t, 0, found = one > found ? one : found)
DEFINE_POOL(max_pool_potentials, int16_t, int16_t, INT16_MIN, found = one > found ? one : found)
DEFINE_POOL(max_pool_drive, int32_t, int32_t, INT32_MIN, found = one > found ? one : found)
DEFINE_POOL(sum_pool, int32_t, uint8_t, 0, found += one)
DEFINE_POOL(sum_pool_sums, int32_t, int32_t, 0, found += one)
