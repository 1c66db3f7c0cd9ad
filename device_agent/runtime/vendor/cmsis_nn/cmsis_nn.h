/*
 * What the adapters to CMSIS-NN 4.0.0 share. Ours and theirs differ in four things, which an adapter settles before it calls:
 * shifts are int8 here and int32 there; our biases hold the input zero point (bias - zero_point * sum of weights); theirs
 * knows no overlap; theirs wants scratch. A record that does not fit (an image for other kernels, a shape CMSIS-NN reads
 * wrongly) goes to our kernel, so that every image runs.
 */
#ifndef FLEET_CMSIS_NN_H
#define FLEET_CMSIS_NN_H

#include "../../internal.h"

#if defined(__has_include)
#if !__has_include(<arm_nnfunctions.h>)
#error "CMSIS-NN 4.0.0 is missing: add the folder that holds arm_nnfunctions.h to the include path and its Source to the build"
#endif
#endif
#include <arm_nnfunctions.h>

/* A layer's arrays in CMSIS-NN's form. */
typedef struct {
    cmsis_nn_per_channel_quant_params channels;
    const int32_t *biases;
    int32_t input_offset;
    cmsis_nn_context buffer;
} fleet_cmsis_nn_layer_t;

/* A convolution's record in CMSIS-NN's form. */
typedef struct {
    cmsis_nn_dims input;
    cmsis_nn_dims filter;
    cmsis_nn_dims bias;
    cmsis_nn_dims output;
} fleet_cmsis_nn_shapes_t;

/* Shifts into the head of the record's scratch, the rest of it for CMSIS-NN; 0 when it is smaller than that or misaligned. */
int fleet_cmsis_nn_begin(fleet_cmsis_nn_layer_t *layer, const fleet_kernel_context_t *context, const fleet_op_t *op,
                         uint32_t channel, uint32_t count, uint32_t buffer_bytes);

/* The same for a convolution. Where a window leaves the input, CMSIS-NN's padded taps count for nothing, ours for the zero
   point: there it gets the zero point as offset and biases without it. */
int fleet_cmsis_nn_begin_conv(fleet_cmsis_nn_layer_t *layer, const fleet_kernel_context_t *context, const fleet_op_conv_t *op,
                              uint32_t buffer_bytes);

void fleet_cmsis_nn_shapes(const fleet_op_conv_t *op, fleet_cmsis_nn_shapes_t *shapes);

/* Every window reaches the input, and input and output share no byte. */
int fleet_cmsis_nn_takes(const fleet_op_conv_t *op);

#endif
