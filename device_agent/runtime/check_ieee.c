/* Whether this core computes as every other one does. */
#include "check_float.h"

int fleet_float_is_ieee(void)
{
    const volatile float smallest = 0x1p-126f; /* of the normal numbers */
    const volatile float half = smallest * 0.5f;
    return half > 0.0f && half + half == smallest;
}
