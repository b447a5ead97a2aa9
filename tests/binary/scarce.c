/* A machine that has no room for another process or thread. Preloaded, it refuses both with the error number that stands in the file named by
   $SCARCE, for as long as the file is there. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
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

static int refusal(void)
{
    int number = 0;
    FILE *file = path ? fopen(path, "re") : NULL;
    if (!file)
        return 0;
    if (fscanf(file, "%d", &number) != 1)
        number = 0;
    fclose(file);
    return number;
}

pid_t fork(void)
{
    int number = refusal();
    if (number) {
        errno = number;
        return -1;
    }
    return ((fork_function)dlsym(RTLD_NEXT, "fork"))();
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*routine)(void *), void *argument)
{
    /* It says EAGAIN of whatever is wanting. */
    if (refusal())
        return EAGAIN;
    return ((create_function)dlsym(RTLD_NEXT, "pthread_create"))(thread, attributes, routine, argument);
}
