/* The neurons' two passes, which a batch norm before them uses too. */
#pragma once
#include "common.h"

/* What multispike_backward is given and gives; the same fields, in this order, stand in layer.py. */
typedef struct {
    const void *x; /* [T, elements], timesteps x_stride apart; NULL if the mask tells all */
    int64_t x_stride;
    const float *v;      /* V[-1] [elements], or NULL */
    const uint8_t *mask; /* [T, elements], or NULL: potentials are computed again from x and v */
    const void *grad;    /* dL/ds [T, elements], timesteps grad_stride apart */
    int64_t grad_stride;
    const float *grad_last; /* dL/dV[T-1] [elements], or NULL */
    void *grad_x;           /* dL/dx [T, elements], behind a batch norm that of its output; */
    int64_t constant;       /* [elements], the sum over T, if x is one drive for all timesteps */
    float *grad_v;          /* dL/dV[-1] [elements], or NULL */
    double *threshold_sums; /* dL/dV_th is added to [threads, channels], or NULL */
    double *norm_sums; /* dL/dx and dL/dx * (x - MEAN) are added to [threads, 2, channels], or NULL */
    float *room;       /* for potentials if there is no mask: [threads, T, TILE] */
} Gradients;

void multispike_forward(const Layer *layer, const void *x, int64_t x_stride, const float *v, void *s,
                        uint8_t *mask, float *last);
void multispike_backward(const Layer *layer, const Gradients *g);
