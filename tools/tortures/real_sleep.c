/* Sleeps by the kernel's monotonic clock, before libfaketime: 0.9.10 hands it a time before now
   where monotonic time is excluded, and Python's sleep fails (wolfcw/libfaketime#426). */

#include <errno.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until, struct timespec *left) {
    return syscall(SYS_clock_nanosleep, clock, flags, until, left) ? errno : 0;
}
