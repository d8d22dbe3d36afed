// SPDX-License-Identifier: BSD-2-Clause
// What executes another program with our descriptors. Before that, connections that it would get go back to TCP; not when the kernel would
// refuse the file, and when it refuses it for another reason all is as it was.
#include "hooks.h"

#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "settings.h"
#include "sys.h"

// vfork's child runs as the thread that waits for it: what that thread remembers of itself must stay true.
static void before_exec(bool replaces)
{
	uint32_t tid = rlm_self_tid;
	int saved = errno;

	stream_before_exec(replaces && !hook_in_vfork());
	rlm_self_tid = tid;
	errno = saved;
}

// It was not executed.
static int after_exec(int result)
{
	uint32_t tid = rlm_self_tid;
	int saved = errno;

	stream_after_exec();
	rlm_self_tid = tid;
	errno = saved;
	return result;
}

// 0, or -errno as execve() would have it: then it must not be tried, since the file may be there by now.
static long file_is_good(int dir, const char *path, int flags)
{
	struct stat st;
	long r;

	if (!settings.enabled)
		return 0;
	r = sys_call4(SYS_faccessat2, dir, path, X_OK, AT_EACCESS | (flags & (AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)));
	if (r == 0)
		r = sys_call4(SYS_newfstatat, dir, path, &st, flags & (AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW));
	if (r < 0)
		return r == -ENOSYS || r == -EPERM || r == -EINVAL ? 0 : r; // a sandbox, an older kernel, flags that execveat() itself refuses
	return S_ISREG(st.st_mode) ? 0 : S_ISLNK(st.st_mode) ? -ELOOP : -EACCES;
}

// Some file of that name will be tried by execvp().
static long found_in_path(const char *file)
{
	const char *path = getenv("PATH"), *end;
	size_t length = strlen(file);
	long r = -ENOENT, error = -ENOENT;

	if (!length || strchr(file, '/'))
		return length ? file_is_good(AT_FDCWD, file, 0) : -ENOENT;
	if (length > NAME_MAX)
		return -ENAMETOOLONG;
	for (path = path ? path : "/bin:/usr/bin"; path; path = *end ? end + 1 : NULL) {
		char name[PATH_MAX + NAME_MAX + 2];

		end = strchrnul(path, ':');
		if (end - path >= PATH_MAX)
			continue;
		snprintf(name, sizeof(name), "%.*s%s%s", (int)(end - path), path, end == path ? "" : "/", file);
		r = file_is_good(AT_FDCWD, name, 0);
		if (r == 0 || (r != -ENOENT && r != -EACCES && r != -ENOTDIR && r != -ESTALE && r != -ENODEV && r != -ETIMEDOUT))
			return r;
		if (r == -EACCES)
			error = r;
	}
	return error == -EACCES ? error : r;
}

// `file`: what was found of it. true: all is ready for the kernel to try.
static bool may_execute(long file)
{
	if (rlm_result(file) < 0)
		return false;
	before_exec(true);
	return true;
}

RLM_EXPORT int execve(const char *path, char *const argv[], char *const envp[])
{
	if (!may_execute(file_is_good(AT_FDCWD, path, 0)))
		return -1;
	return after_exec(REAL(execve)(path, argv, envp));
}

RLM_EXPORT int execv(const char *path, char *const argv[])
{
	if (!may_execute(file_is_good(AT_FDCWD, path, 0)))
		return -1;
	return after_exec(REAL(execv)(path, argv));
}

RLM_EXPORT int execvp(const char *file, char *const argv[])
{
	if (!may_execute(found_in_path(file)))
		return -1;
	return after_exec(REAL(execvp)(file, argv));
}

RLM_EXPORT int execvpe(const char *file, char *const argv[], char *const envp[])
{
	if (!may_execute(found_in_path(file)))
		return -1;
	return after_exec(REAL(execvpe)(file, argv, envp));
}

RLM_EXPORT int execveat(int fd, const char *path, char *const argv[], char *const envp[], int flags)
{
	if (!may_execute(file_is_good(fd, path, flags)))
		return -1;
	return after_exec(REAL(execveat)(fd, path, argv, envp, flags));
}

RLM_EXPORT int fexecve(int fd, char *const argv[], char *const envp[])
{
	if (!may_execute(file_is_good(fd, "", AT_EMPTY_PATH)))
		return -1;
	return after_exec(REAL(fexecve)(fd, argv, envp));
}

// libc's execl() and its like call execve() inside libc, so the list is made here.
static size_t count_args(va_list args)
{
	size_t n = 1;

	while (va_arg(args, char *))
		n++;
	return n;
}

static void list_args(char **argv, const char *first, va_list args)
{
	argv[0] = (char *)(uintptr_t)first;
	for (size_t i = 1; argv[i - 1]; i++)
		argv[i] = va_arg(args, char *);
}

static size_t list_size(const char *first, va_list args)
{
	return first ? count_args(args) + 1 : 1;
}

RLM_EXPORT int execl(const char *path, const char *first, ...)
{
	va_list args;

	va_start(args, first);
	char *argv[list_size(first, args)];
	va_end(args);
	va_start(args, first);
	list_args(argv, first, args);
	va_end(args);
	return execv(path, argv);
}

RLM_EXPORT int execlp(const char *file, const char *first, ...)
{
	va_list args;

	va_start(args, first);
	char *argv[list_size(first, args)];
	va_end(args);
	va_start(args, first);
	list_args(argv, first, args);
	va_end(args);
	return execvp(file, argv);
}

RLM_EXPORT int execle(const char *path, const char *first, ...)
{
	char *const *envp;
	va_list args;

	va_start(args, first);
	char *argv[list_size(first, args)];
	va_end(args);
	va_start(args, first);
	list_args(argv, first, args);
	envp = va_arg(args, char *const *);
	va_end(args);
	return execve(path, argv, envp);
}

// --- programs started by libc ---

RLM_EXPORT int posix_spawn(pid_t *restrict pid, const char *restrict path, const posix_spawn_file_actions_t *actions,
			   const posix_spawnattr_t *restrict attr, char *const argv[restrict],
			   char *const envp[restrict])
{
	int r;

	before_exec(false);
	r = REAL(posix_spawn)(pid, path, actions, attr, argv, envp);
	return r ? after_exec(r) : 0;
}

RLM_EXPORT int posix_spawnp(pid_t *restrict pid, const char *restrict file, const posix_spawn_file_actions_t *actions,
			    const posix_spawnattr_t *restrict attr, char *const argv[restrict],
			    char *const envp[restrict])
{
	int r;

	before_exec(false);
	r = REAL(posix_spawnp)(pid, file, actions, attr, argv, envp);
	return r ? after_exec(r) : 0;
}

// The new program gets the connection even though it is closed on exec here.
RLM_EXPORT int posix_spawn_file_actions_adddup2(posix_spawn_file_actions_t *actions, int fd, int newfd)
{
	struct rlm_conn *c = fd_conn(fd);

	if (c)
		stream_to_kernel(c, fd, RLM_WHY_SHARED);
	return REAL(posix_spawn_file_actions_adddup2)(actions, fd, newfd);
}

RLM_EXPORT int system(const char *command)
{
	before_exec(false);
	return REAL(system)(command);
}

RLM_EXPORT FILE *popen(const char *command, const char *mode)
{
	before_exec(false);
	return REAL(popen)(command, mode);
}
