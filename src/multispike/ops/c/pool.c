/* 2x2 max-pooling with stride 2 in channels_last, whose backward needs one byte an output: called by
 * pool.py.
 *
 * Of equal values the first in the order of the rows wins, and NaN is the largest, as in torch. The
 * windows at the lower and right border of odd sizes are cut.
 */
#include "common.h"

/* Of the input; the same fields, in this order, stand in pool.py. */
typedef struct {
    int64_t images, rows, columns, channels, bfloat16, threads;
} Images;

/* Of n channels of the window (w x / y z) the largest value, and the number of its corner. */
INLINE void largest(int64_t n, const float *first, const float *second, const float *third,
                    const float *fourth, float *restrict out, int32_t *restrict winner) {
    for (int64_t i = 0; i < n; i++) {
        float w = first[i], x = second[i], y = third[i], z = fourth[i];
        int32_t corner = (x > w) | (x != x);
        w = (x > w) | (x != x) ? x : w;
        corner = (y > w) | (y != y) ? 2 : corner;
        w = (y > w) | (y != y) ? y : w;
        winner[i] = (z > w) | (z != z) ? 3 : corner;
        out[i] = (z > w) | (z != z) ? z : w;
    }
}

/* n channels of one window; corners that a border cut off are NULL. */
INLINE void forward(int64_t n, int64_t bfloat16, const void *const corner[4], void *out,
                    uint8_t *restrict winner) {
    float room[4][BLOCK], result[BLOCK];
    int32_t numbers[BLOCK]; /* as wide as the values: loops of one width vectorise best */
    const float *value[4];
    for (int k = 0; k < 4; k++) /* a missing corner repeats the first, which wins against its like */
        value[k] = corner[k] ? loaded(bfloat16, corner[k], 0, n, room[k]) : value[0];
    float *maxima = place(bfloat16, out, 0, result);
    largest(n, value[0], value[1], value[2], value[3], maxima, numbers);
    for (int64_t i = 0; i < n; i++) winner[i] = (uint8_t)numbers[i];
    store(bfloat16, maxima, n, out, 0);
}

/* Their gradient goes to the winners, zero to the other corners. */
INLINE void backward(int64_t n, int64_t bfloat16, void *const corner[4], const void *grad,
                     const uint8_t *restrict winner) {
    float given[BLOCK], result[BLOCK];
    int32_t numbers[BLOCK];
    for (int64_t i = 0; i < n; i++) numbers[i] = winner[i];
    const float *from = loaded(bfloat16, grad, 0, n, given);
    for (int32_t k = 0; k < 4; k++) {
        if (!corner[k]) continue;
        float *restrict to = place(bfloat16, corner[k], 0, result);
        for (int64_t i = 0; i < n; i++) to[i] = numbers[i] == k ? from[i] : 0.0f;
        store(bfloat16, to, n, corner[k], 0);
    }
}

/* `out` and `winner` are made from `in`, or `in` (a gradient) from them. */
INLINE void all_windows(const Images *x, int64_t bfloat16, int back, char *in, char *out,
                        uint8_t *winner) {
    int64_t rows = (x->rows + 1) / 2, columns = (x->columns + 1) / 2;
    int64_t size = bfloat16 ? 2 : 4, pixel = x->channels * size, line = x->columns * pixel;
#pragma omp parallel for schedule(static) num_threads(x->threads)
    for (int64_t row = 0; row < x->images * rows; row++) {
        int64_t upper = 2 * (row % rows);
        int deep = upper + 1 < x->rows;
        for (int64_t column = 0; column < columns; column++) {
            int broad = 2 * column + 1 < x->columns;
            char *window = in + (row / rows * x->rows + upper) * line + 2 * column * pixel;
            int64_t at = (row * columns + column) * x->channels;
            for (int64_t i = 0; i < x->channels; i += BLOCK) {
                int64_t n = least(BLOCK, x->channels - i);
                char *first = window + i * size, *below = first + line;
                void *corner[4] = {first, broad ? first + pixel : NULL, deep ? below : NULL,
                                   broad && deep ? below + pixel : NULL};
                if (back)
                    backward(n, bfloat16, corner, out + (at + i) * size, winner + at + i);
                else
                    forward(n, bfloat16, (const void *const *)corner, out + (at + i) * size,
                            winner + at + i);
            }
        }
    }
}

/* x [images, rows, columns, channels] -> its maxima, half the size, and their corners (0 to 3). */
void multispike_pool(const Images *x, const void *values, void *maxima, uint8_t *winner) {
    if (x->bfloat16)
        all_windows(x, 1, 0, (char *)values, maxima, winner);
    else
        all_windows(x, 0, 0, (char *)values, maxima, winner);
}

/* The gradient of the maxima and their corners -> that of x. */
void multispike_pool_backward(const Images *x, void *grad_x, const void *grad,
                              const uint8_t *winner) {
    if (x->bfloat16)
        all_windows(x, 1, 1, grad_x, (char *)grad, (uint8_t *)winner);
    else
        all_windows(x, 0, 1, grad_x, (char *)grad, (uint8_t *)winner);
}
