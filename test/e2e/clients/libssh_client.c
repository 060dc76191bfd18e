// A client of libssh: a command, a shell on a terminal, a file there and back, and
// a forwarded connection, without a key. Arguments: a folder on the host, and a
// port there at which SSH is spoken. Prints ok.
#include <fcntl.h>
#include <libssh/libssh.h>
#include <libssh/sftp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ssh_session session;

static void need(int ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "%s: %s\n", what, ssh_get_error(session));
	exit(1);
}

// hear reads all that a channel says, or as much as there is room for.
static void hear(ssh_channel c, char *text, size_t room)
{
	size_t at = 0;
	int n;
	while (at < room - 1 && (n = ssh_channel_read(c, text + at, room - 1 - at, 0)) > 0)
		at += n;
	text[at] = 0;
}

static void command(void)
{
	char text[64];
	ssh_channel c = ssh_channel_new(session);
	need(ssh_channel_open_session(c) == SSH_OK, "session");
	need(ssh_channel_request_exec(c, "cat; exit 42") == SSH_OK, "exec");
	need(ssh_channel_write(c, "by libssh", 9) == 9, "write");
	need(ssh_channel_send_eof(c) == SSH_OK, "eof");
	hear(c, text, sizeof text);
	need(strcmp(text, "by libssh") == 0, text);
	need(ssh_channel_get_exit_status(c) == 42, "status");
	ssh_channel_free(c);
}

static void shell(void)
{
	static char text[1 << 16];
	ssh_channel c = ssh_channel_new(session);
	need(ssh_channel_open_session(c) == SSH_OK, "session");
	need(ssh_channel_request_pty_size(c, "vt100", 80, 24) == SSH_OK, "terminal");
	need(ssh_channel_request_shell(c) == SSH_OK, "shell");
	need(ssh_channel_write(c, "echo $((40+2))-seen; exit 7\n", 28) == 28, "type");
	hear(c, text, sizeof text);
	need(strstr(text, "42-seen") != NULL, text);
	need(ssh_channel_get_exit_status(c) == 7, "status of the shell");
	ssh_channel_free(c);
}

static void files(const char *dir)
{
	static char sent[300000], got[300000];
	char path[4096];
	size_t at = 0;
	ssize_t n;
	sftp_session s = sftp_new(session);
	need(s != NULL && sftp_init(s) == SSH_OK, "sftp");
	snprintf(path, sizeof path, "%s/libssh", dir);
	for (size_t i = 0; i < sizeof sent; i++)
		sent[i] = (char)(i * 7 + i / 251);
	sftp_file f = sftp_open(s, path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	need(f != NULL, "create");
	for (; at < sizeof sent; at += n)
		need((n = sftp_write(f, sent + at, sizeof sent - at < 30000 ? sizeof sent - at : 30000)) > 0, "write");
	need(sftp_close(f) == SSH_OK, "close");
	f = sftp_open(s, path, O_RDONLY, 0);
	need(f != NULL, "open");
	for (at = 0; at < sizeof got && (n = sftp_read(f, got + at, sizeof got - at)) > 0;)
		at += n;
	need(at == sizeof got && memcmp(sent, got, at) == 0, "the same");
	sftp_close(f);
	need(sftp_unlink(s, path) == SSH_OK, "remove");
	sftp_free(s);
}

static void forwarded(int port)
{
	char text[8];
	ssh_channel c = ssh_channel_new(session);
	need(ssh_channel_open_forward(c, "127.0.0.1", port, "127.0.0.1", 1) == SSH_OK, "forward");
	hear(c, text, sizeof text);
	need(strcmp(text, "SSH-2.0") == 0, text);
	ssh_channel_close(c);
	ssh_channel_free(c);
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	session = ssh_new();
	ssh_options_set(session, SSH_OPTIONS_HOST, "web.internal");
	ssh_options_set(session, SSH_OPTIONS_USER, "root");
	ssh_options_set(session, SSH_OPTIONS_KNOWNHOSTS, "/run/postern/known_hosts");
	need(ssh_connect(session) == SSH_OK, "connect");
	need(ssh_session_is_known_server(session) == SSH_KNOWN_HOSTS_OK, "known host");
	need(ssh_userauth_none(session, NULL) == SSH_AUTH_SUCCESS, "login");
	command();
	shell();
	files(argv[1]);
	forwarded(atoi(argv[2]));
	ssh_disconnect(session);
	puts("ok");
	return 0;
}
