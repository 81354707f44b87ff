/* A layer of neurons as spikes.py describes it, and its constants spread over the elements. */
#pragma once
#include "common.h"

/* The rows of a layer's constants. */
enum {
    THRESHOLD,
    START,      /* beta * V[-1] where no potential is passed in */
    SCALE,      /* N/V_th, rounded, */
    SCALE_REST, /* and what the rounding took away */
    ROWS
};

/* One layer of neurons; the same fields, in this order, are packed by spikes.py. */
typedef struct {
    int64_t elements; /* in one timestep, in memory order */
    int64_t steps;    /* T */
    int64_t channels; /* that have a threshold of their own; 1 if all share one */
    int64_t inner;    /* memory distance between channels; 1 if there is one */
    int64_t levels;   /* N */
    int64_t bumps;    /* how many bumps of the sigmoid's sum reach an element; 0 for windows */
    int64_t detach;   /* no gradient through the reset */
    int64_t bfloat16; /* type of x, s and their gradients; else float */
    int64_t bypass;   /* write results past the cache, which they are too large for */
    int64_t threads;
    int64_t number; /* `threshold` is one double, rounded where it meets a potential */
    float alpha, beta;
    float reach;  /* end of the window of "ste" and "clip", in V_th */
    double start; /* beta * V[-1], in V_th */
    const void *threshold; /* [channels] floats */
    float *constants; /* [ROWS, channels + BLOCK], filled here: a block reads on past the last channel */
    const float *rise; /* [window] exp(alpha * (c - k)), c the centre of the window */
    const float *fall; /* [window] 1 / rise */
} Layer;

/* A row for each element of a block: in the table of the layer, or spread out in `room`. */
typedef struct {
    const float *row[ROWS];
    float room[ROWS][BLOCK];
} Constants;

static void fill_constants(const Layer *layer) {
    int64_t width = layer->channels + BLOCK;
    for (int64_t i = 0; i < width; i++) {
        int64_t channel = i % layer->channels;
        double number = layer->number ? *(const double *)layer->threshold : 0.0;
        float threshold = layer->number ? (float)number : ((const float *)layer->threshold)[channel];
        double scale = (double)layer->levels / (double)threshold;
        float *constant = layer->constants + i;
        constant[THRESHOLD * width] = threshold;
        constant[START * width] =
            layer->number ? (float)(number * layer->start) : threshold * (float)layer->start;
        constant[SCALE * width] = (float)scale;
        constant[SCALE_REST * width] = (float)(scale - (double)(float)scale);
    }
}

/* How many of n elements from `at` on lie in `*channel`, or, where channels are neighbours in memory
 * (inner = 1), in channels that count up from it. */
static inline int64_t run(const Layer *layer, int64_t at, int64_t n, int64_t *channel) {
    *channel = at / layer->inner % layer->channels;
    if (layer->channels == 1) return n;
    return least(n, layer->inner == 1 ? layer->channels - *channel
                                      : layer->inner - at % layer->inner);
}

INLINE void constants_at(const Layer *layer, int64_t at, int64_t n, Constants *c) {
    int64_t width = layer->channels + BLOCK, channel, length;
    if (layer->inner == 1) {
        for (int row = 0; row < ROWS; row++)
            c->row[row] = layer->constants + row * width + at % layer->channels;
        return;
    }
    for (int64_t i = 0; i < n; i += length) {
        length = run(layer, at + i, n - i, &channel);
        for (int row = 0; row < ROWS; row++) {
            float value = layer->constants[row * width + channel];
            for (int64_t j = 0; j < length; j++) c->room[row][i + j] = value;
        }
    }
    for (int row = 0; row < ROWS; row++) c->row[row] = c->room[row];
}
