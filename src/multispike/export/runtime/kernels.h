/* Integer spiking layers in C99: no malloc, no floating point, no recursion.
 *
 * Maps are stored [row][column][channel]. Levels (graded spikes) take one byte, potentials that
 * drive a neuron int32, potentials that cross a shortcut int16.
 *
 * -DDENSE  convolutions visit every input, zero or not, for comparison
 * -DCOUNT  count events, synaptic operations and updates of potentials
 */
#ifndef KERNELS_H
#define KERNELS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int channels, rows, columns;
} shape_t;

typedef struct {
    int rows, columns;
} pair_t;

/* Where a kernel stands: its place (0, 0) begins `before` above and left of the image, each next one
 * a stride on, its taps a dilation apart. */
typedef struct {
    pair_t kernel, stride, before, dilation;
} window_t;

/* Synapses. weight is [in.channels][kernel.rows][kernel.columns][out.channels / groups], so that one
 * event adds whole runs of weights; of the taps that an event may meet, each tap_step-th is met,
 * place_step places before. Of pruned weights there are no zeros: run i is from first[i] to
 * first[i + 1], and gap says how many zeros were before each weight. Else both are NULL. gain, for an
 * identity, is [channels]. id indexes the counters. */
typedef struct {
    int id;
    shape_t in, out;
    window_t window;
    pair_t tap_step, place_step;
    int groups;
    const int8_t *weight;
    const int32_t *first;
    const uint8_t *gap;
} conv_t;

typedef struct {
    int id;
    shape_t shape;
    const int32_t *gain;
} identity_t;

/* values is [row class][column class][channel]; rows and columns give the class of each row and
 * column, or are NULL where there is one class. */
typedef struct {
    const int32_t *values;
    const uint8_t *rows, *columns;
    int column_classes;
} bias_t;

/* Multi-level integrate-and-fire neurons: level k at potential >= k * step[channel], soft reset. */
typedef struct {
    int id;
    shape_t shape;
    bias_t bias;
    const int32_t *start, *step;
    int levels;
} neurons_t;

typedef struct {
    shape_t in, out;
    window_t window;
} pool_t;

int shape_size(shape_t shape);

/* Input [channel][row][column] -> [row][column][channel]. */
void channels_last(uint8_t *z, const uint8_t *input, shape_t shape);

/* Potentials: set to constants, add constants, add each other. */
void clear(int32_t *v, shape_t shape);
void set_channels(int32_t *v, const int32_t *values, shape_t shape);
void set_bias(int32_t *v, bias_t bias, shape_t shape);
void add_bias(int32_t *v, bias_t bias, shape_t shape);
void add_drive(int32_t *v, const int32_t *drive, shape_t shape);

/* Synapses onto potentials. */
void conv_events(int32_t *v, const conv_t *conv, const uint8_t *z);
void conv_potentials(int32_t *v, const conv_t *conv, const int16_t *p);
void conv_sums(int32_t *v, const conv_t *conv, const int32_t *sums);
void add_levels(int32_t *v, const identity_t *identity, const uint8_t *z);
void add_potentials(int32_t *v, const identity_t *identity, const int16_t *p);

/* v += sign[channel] * drive. */
void add_signed(int32_t *v, const int32_t *drive, const int32_t *sign, shape_t shape);

/* v += drive / 2^shift[channel], rounding half up; a negative shift multiplies. */
void add_shifted(int32_t *v, const int32_t *drive, const int32_t *shift, shape_t shape);

/* Levels from potentials, and int16 from int32, saturating. */
void fire(uint8_t *z, int32_t *v, const neurons_t *neurons);
void saturate(int16_t *p, const int32_t *v, shape_t shape);

/* Levels from levels: sums and logic of two paths. */
void merge_add(uint8_t *z, const uint8_t *path, const uint8_t *shortcut, shape_t shape);
void merge_and(uint8_t *z, const uint8_t *path, const uint8_t *shortcut, shape_t shape);
void merge_iand(uint8_t *z, const uint8_t *path, const uint8_t *shortcut, shape_t shape);

/* Channels of `in` into those of `out` from `first` on. */
void place_levels(uint8_t *out, const uint8_t *in, shape_t shape, int channels, int first);
void place_potentials(int16_t *out, const int16_t *in, shape_t shape, int channels, int first);
void place_sums(int32_t *out, const int32_t *in, shape_t shape, int channels, int first);

/* Maximum and sum of a window; what is beyond the border counts for nothing. */
void max_pool(uint8_t *out, const uint8_t *in, const pool_t *pool);
void max_pool_potentials(int16_t *out, const int16_t *in, const pool_t *pool);
void max_pool_drive(int32_t *out, const int32_t *in, const pool_t *pool);
void sum_pool(int32_t *out, const uint8_t *in, const pool_t *pool);
void sum_pool_sums(int32_t *out, const int32_t *in, const pool_t *pool);

#ifdef COUNT
/* Synapses: non-zero inputs, sum of their levels, weights applied.
 * Neurons: non-zero outputs, sum of their levels, visits of a potential. */
typedef struct {
    const char *name;
    long long events, amplitude, operations;
} counts_t;

extern counts_t synapse_counts[], neuron_counts[];
#endif

#ifdef __cplusplus
}
#endif

#endif
