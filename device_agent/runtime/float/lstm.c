/* LSTM_F32: what a unit keeps fades by one gate and grows by another; what it shows of it passes a third. */
#include "gates.h"

enum { INPUT_GATE, FORGET_GATE, CELL_GATE, OUTPUT_GATE, GATES };

static void step(const fleet_f32_gates_t *gates, float *output)
{
    const fleet_op_gated_f32_t *op = gates->op;
    for (uint32_t unit = 0; unit < op->units; unit++) {
        const float kept = fleet_f32_sigmoid(fleet_f32_gate(gates, FORGET_GATE, unit)) * gates->cells[unit];
        const float let = fleet_f32_sigmoid(fleet_f32_gate(gates, INPUT_GATE, unit));
        gates->cells[unit] = kept + let * fleet_f32_tanh(fleet_f32_gate(gates, CELL_GATE, unit));
        const float shown = fleet_f32_sigmoid(fleet_f32_gate(gates, OUTPUT_GATE, unit));
        output[unit] = fleet_f32_clamp(shown * fleet_f32_tanh(gates->cells[unit]), op->activation_min, op->activation_max);
    }
}

void fleet_f32_lstm(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_gated_f32_t *op = record;
    float *output = fleet_f32_arena(context, op->output);
    fleet_f32_gates_t gates = fleet_f32_gates(context, op, GATES, 2u);
    for (uint32_t i = 0; i < op->steps; i++) {
        step(&gates, output);
        fleet_f32_gates_next(&gates, output);
        output += op->units;
    }
}
