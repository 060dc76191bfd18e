// Package sftp is the SSH File Transfer Protocol, version 3 with OpenSSH's
// extensions, as it passes through the gateway: every request that names a file
// is decided by what it would do to which path, as the server resolves it, and
// what came of it is on record with sizes and hashes.
//
// Start with Handler in relay.go, the life of a channel; request.go has the
// client's side of it, answers.go the server's. packet.go is the codec, and
// effects.go says what a request would do. Both are pure.
//
// The server resolves a path and then opens it, and between the two a link may
// be exchanged: whoever may make links in a directory while a file in it is
// opened can have another one opened. What goes upstream is the path that was
// decided, without links, which leaves no more than that.
package sftp
