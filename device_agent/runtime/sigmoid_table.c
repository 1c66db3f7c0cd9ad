/* The table of every kernel with a sigmoid or tanh, linked once. */
#include "sigmoid.h"
#include "tables_int16.h"

const uint16_t fleet_sigmoid_table[FLEET_SIGMOID_ENTRIES] = {FLEET_SIGMOID_UINT16};
