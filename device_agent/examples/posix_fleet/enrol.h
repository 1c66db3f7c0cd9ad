/* A device's certificate: got with the claim certificate, renewed with itself before it ends; each time after asking whom to trust. */
#ifndef FLEET_DEVICE_ENROL_H
#define FLEET_DEVICE_ENROL_H

#include "device.h"

/* Goes on with the enrolment of a device; true once it has a certificate and `id` is set. Sets `next_ms` otherwise. */
bool enrol_step(device_t *device, uint64_t now_ms);

/* Looks at the age of a running device's certificate and renews it in its last third. Returns when to be called next. */
uint64_t enrol_renew(device_t *device, uint64_t now_ms);

/* Sets `ca_path`. False, with errno, when --ca is too long a path. */
bool enrol_choose_trust(device_t *device);

/* Gives up what is under way. */
void enrol_close(device_t *device);

#endif
