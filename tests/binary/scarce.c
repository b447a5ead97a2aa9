/* A machine that has no room for another process or thread. Preloaded, it refuses both with the error number that stands in the file named by
   $SCARCE, for as long as the file is there; but for as many threads as a second number there says. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef pid_t (*fork_function)(void);
typedef int (*create_function)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

static const char *path;

__attribute__((constructor)) static void remember_the_path(void)
{
    path = getenv("SCARCE");
}

static int refusal(int *threads)
{
    int number = 0;
    FILE *file = path ? fopen(path, "re") : NULL;
    if (!file)
        return 0;
    *threads = 0;
    if (fscanf(file, "%d %d", &number, threads) < 1)
        number = 0;
    fclose(file);
    return number;
}

pid_t fork(void)
{
    int threads, number = refusal(&threads);
    if (number) {
        errno = number;
        return -1;
    }
    return ((fork_function)dlsym(RTLD_NEXT, "fork"))();
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*routine)(void *), void *argument)
{
    static atomic_int given;
    int threads;
    /* It says EAGAIN of whatever is wanting. */
    if (refusal(&threads) && atomic_fetch_add(&given, 1) >= threads)
        return EAGAIN;
    return ((create_function)dlsym(RTLD_NEXT, "pthread_create"))(thread, attributes, routine, argument);
}
