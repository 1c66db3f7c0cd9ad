/* Small code. */
#ifndef FLEET_COMPACT_H
#define FLEET_COMPACT_H

/** A function that stays one: inlined into its only caller it would make that one larger. Measured with GCC 12, -Os. */
#if defined(__GNUC__)
#define FLEET_APART __attribute__((noinline))
#else
#define FLEET_APART
#endif

#endif
