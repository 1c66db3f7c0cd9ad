/* A kernel that misbehaves on request, in one image: a bug that neither the checks nor the golden vectors met. */
#ifndef RIG_FAULT_H
#define RIG_FAULT_H

#include <setjmp.h>
#include <stdint.h>

/** Stops: it crashes or hangs, and the core is reset; which of the two makes no difference to the agent that boots then. The real ones are in tests/agent/fault. */
enum { RIG_FAULT_NONE, RIG_FAULT_STOPS, RIG_FAULT_OVERRUN, RIG_FAULT_STRIDE };

enum { RIG_RESET = 1 }; /* of rig_infer: it did not return, the device has to boot again */

typedef struct {
    int kind;
    const uint8_t *image; /* whose kernel */
} rig_fault_t;

/** Of the live inference that runs now; none outside of one, so golden vectors pass. */
extern rig_fault_t rig_fault_now;
extern jmp_buf rig_reset_point;

#endif
