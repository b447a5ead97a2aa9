/* Clocks that a test sets. Preloaded, it adds to what the clocks show the seconds that stand in the file named by $CLOCKS: a native
   64-bit number for the wall clock, and one for the clocks that only go on. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

typedef int (*clock_function)(clockid_t, struct timespec *);

static const volatile int64_t *ahead;

__attribute__((constructor)) static void map_the_file(void)
{
    const char *path = getenv("CLOCKS");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *mapped = mmap(NULL, 2 * sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED)
        ahead = mapped;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    static clock_function next;
    if (!next)
        next = (clock_function)dlsym(RTLD_NEXT, "clock_gettime");
    int result = next(clock, time);
    if (result != 0 || !ahead)
        return result;
    switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE:
        time->tv_sec += ahead[0];
        break;
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_COARSE:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_BOOTTIME:
        time->tv_sec += ahead[1];
        break;
    default:
        break;
    }
    return result;
}
