/* What happens to a device, one JSON object a line on stdout; see README for the events. */
#ifndef FLEET_DEVICE_REPORT_H
#define FLEET_DEVICE_REPORT_H

#include <stdint.h>

#include "fleet_agent.h"

/* Who a line is about: the folder's name, and the device id once it is known. */
typedef struct {
    const char *name;
    const char *device;
} reporter_t;

void report(const reporter_t *who, const char *event);
void report_text(const reporter_t *who, const char *event, const char *key, const char *text);
void report_number(const reporter_t *who, const char *event, const char *key, uint64_t number);

/* Lines for everything that differs between two snapshots. */
void report_changes(const reporter_t *who, const fleet_agent_info_t *before, const fleet_agent_info_t *after);

#endif
