// Package recording reads, verifies and replays what Postern put on record.
//
// It is a promise to other programs: it imports nothing internal, the format
// below changes only with its version number, and a reader of version n reads
// every version before it. Writing, quotas and durability are left to the
// daemon; policy is left to nobody here. Start with [Sessions] to find
// recordings, [Open] and [Reader.Next] to read one, [Verify] to check a whole
// directory, [Play] to watch a session,
// [Asciicast] to give it to other players.
//
// # Directory
//
//	journal-000001.rec             the journal; a new number when one was damaged or grew long
//	2026/03/14/<session id>.rec    one file per session, under the day (UTC) it began
//
// Directories have mode 0700, files 0600. A session id matches
// [A-Za-z0-9_-]{1,64}.
//
// # File
//
// Every file, the journal's included, is a header of 64 bytes and then frames
// without a gap. All integers are big-endian.
//
//	offset size
//	0      8    magic: 89 50 53 54 52 4e 0d 0a
//	8      2    version: 1
//	10     1    type: 1 session, 2 journal
//	11     1    zero
//	12     4    flags: zero. Bit 0 is kept for zstd, bit 1 for age; a reader
//	            refuses a file with a flag it does not know
//	16     16   random, so that no two chains begin alike
//	32     32   SHA-256 of bytes 0 to 31: the genesis hash
//
// # Frame
//
//	0      4    n, the length of the part up to the padding: 16 + payload; never 0
//	4      1    kind
//	5      3    zero
//	8      8    time, nanoseconds since 1970 UTC
//	16     n-16 payload
//	n      0-7  zero bytes up to a multiple of 8
//	       32   SHA-256 of everything from the hash before this frame (32 bytes,
//	            that of the header for the first frame) to here
//
// So each hash covers the whole file before it. A writer puts the length in
// place last: a frame that was cut off by the death of its writer has length
// zero. Files that are being written, or whose writer was killed, are followed
// by zero bytes (room that was made ahead) and possibly by the remains of one
// such frame; a closed file ends with its last frame, of kind end.
//
// n is at most 64 MiB.
//
// # Payloads
//
// A payload is its fields, in the order of the Go struct of the kind, one after
// the other:
//
//	integer    unsigned LEB128 of its 64 bits, in as few bytes as possible
//	bool       one byte, 0 or 1
//	string     integer length, then the bytes
//	bytes      as string
//	hash       32 bytes
//	time       8 bytes, nanoseconds since 1970 UTC; 0 when unknown
//	address    string: 4 or 16 bytes of address, the zone if any, then the port in
//	           2 bytes, little-endian; 2 bytes when there is no address
//	list       integer count, then the elements
//
// Nothing follows the last field. Kinds from 1 are for session files, kinds
// from 64 for the journal:
//
//	 1 opened    Opened            64 started         Started
//	 2 intent    Intent            65 session-opened  SessionOpened
//	 3 upstream  Upstream          66 session-closed  SessionClosed
//	 4 request   Request           67 session-removed SessionRemoved
//	 5 verdict   Verdict           68 stopped         Stopped
//	 6 approval  Approval
//	 7 fields    Fields
//	 8 rows      Rows
//	 9 data      Data
//	10 denial    Denial
//	11 outcome   Outcome
//	12 end       End
//	13 container Container
//	14 terminal  Terminal
//	15 stream    Stream
//	16 exit      Exit
//	17 file      File
//	18 identity  Identity
//
// A reader passes over kinds it does not know ([Unknown]); their hashes count
// all the same. Container, which follows opened where there is one, came after
// those before it, then terminal, stream, exit and file, and then identity, which
// follows opened and container where there is one.
//
// The body of a rows event is a sequence of rows, each with its length in 4
// bytes before it. A row is the body of PostgreSQL's DataRow: a count in 2
// bytes, then per value a length in 4 bytes (-1 for NULL) and the bytes.
//
// # Terminals, commands and files
//
// A request that is a shell or a command is followed, as it goes on, by events
// that name it:
//
//	terminal   it has one, of this type and size; again, with an empty type, when
//	           its size changes
//	stream     bytes, as they went to the client after masking; of stdin, where
//	           it is recorded, as they came from it, masked only here
//	exit       how it ended
//	file       something was done to a file
//
// The time of a frame is when its bytes went on. A character of several bytes,
// or a control sequence, may be parted over stream events. Several requests of a
// session may go on at once. On a terminal everything is stdout, and lines end
// with CR LF.
//
// # The journal
//
// The journal binds the session files together. Before the first event of a
// session it gets a session-opened event with the genesis hash of that file;
// the file's first event, opened, holds the hash of that very journal frame.
// At the end it gets a session-closed event with the file's length, number of
// events and last hash. Hence a file that was changed, cut, exchanged, deleted
// or added disagrees with the journal, and a journal that was rewritten or
// rolled back disagrees with the files that were opened after that point. A
// directory that was replaced as a whole, by one made up from beginning to end
// or by an older copy of itself, can only be told by a copy of a hash that was
// kept elsewhere; [Report.Head] is the one to keep.
package recording
