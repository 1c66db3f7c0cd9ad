/* FULLY_CONNECTED, four outputs at a time. */
#include "dsp.h"

typedef struct {
    const int8_t *input;
    const int8_t *weights; /* first row */
    const int32_t *multipliers;
    const int32_t *biases;
    const int8_t *shifts;
    uint32_t features;
    int all_short; /* no row has a huge bias */
    int32_t zero_point;
} job_t;

static inline int8_t finish(const job_t *job, uint32_t row, int32_t sum, const int8_t *weights)
{
    const uint32_t done = job->features & ~3u;
    if (done != job->features) {
        sum = fleet_dot(sum, job->input + done, weights + done, job->features - done);
    }
    if (!job->all_short) {
        return fleet_dsp_requantize_long(sum, job->multipliers[row], job->shifts[row], job->zero_point);
    }
    return fleet_dsp_requantize(sum, job->multipliers[row], job->shifts[row], job->zero_point);
}

static void connect_four(const job_t *job, uint32_t row, int8_t *output)
{
    const int32_t *biases = job->biases + row;
    const int8_t *weights = job->weights + row * job->features;
    int32_t sums[4] = {biases[0], biases[1], biases[2], biases[3]};
    if (job->features >= 4u) {
        fleet_dsp_dot_1x4(sums, job->input, weights, job->features, job->features / 4u);
    }
    output[row] = finish(job, row, sums[0], weights);
    output[row + 1u] = finish(job, row + 1u, sums[1], weights + job->features);
    output[row + 2u] = finish(job, row + 2u, sums[2], weights + 2u * job->features);
    output[row + 3u] = finish(job, row + 3u, sums[3], weights + 3u * job->features);
}

static void connect_one(const job_t *job, uint32_t row, int8_t *output)
{
    const int8_t *weights = job->weights + row * job->features;
    int32_t sums[4] = {job->biases[row], 0, 0, 0};
    if (job->features >= 4u) {
        fleet_dsp_dot_1x4(sums, job->input, weights, 0, job->features / 4u);
    }
    output[row] = finish(job, row, sums[0], weights);
}

void fleet_dsp_fully_connected(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_fully_connected_t *op = record;
    int8_t *output = context->arena + op->output;
    if (op->in_features > FLEET_DSP_MAX_ROW) {
        fleet_fully_connected(context, record);
        return;
    }
    job_t job;
    job.input = context->arena + op->input;
    job.weights = (const int8_t *)context->image + op->weights;
    job.multipliers = context->multipliers + op->channel;
    job.biases = context->biases + op->channel;
    job.shifts = context->shifts + op->channel;
    job.features = op->in_features;
    job.all_short = fleet_dsp_short_channels(job.biases, op->out_features) == op->out_features;
    job.zero_point = op->output_zero_point;
    for (uint32_t row = 0; row < op->rows; row++) {
        uint32_t o = 0;
        for (; o + 4u <= op->out_features; o += 4u) {
            connect_four(&job, o, output);
        }
        for (; o < op->out_features; o++) {
            connect_one(&job, o, output);
        }
        fleet_dsp_clamp(output, op->out_features, op->activation_min, op->activation_max);
        job.input += op->in_features;
        output += op->out_features;
    }
}
