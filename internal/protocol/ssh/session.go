package ssh

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/protocol/ssh/line"
	"github.com/postern/postern/internal/protocol/ssh/scp"
	"github.com/postern/postern/internal/protocol/ssh/sftp"
	"github.com/postern/postern/internal/relay/channels"
	"github.com/postern/postern/internal/shell"
)

// Requests on a session (RFC 4254, section 6, and OpenSSH's PROTOCOL).
const (
	requestPty       = "pty-req"
	requestEnv       = "env"
	requestShell     = "shell"
	requestExec      = "exec"
	requestSubsystem = "subsystem"
	requestWindow    = "window-change"
	requestSignal    = "signal"
	requestBreak     = "break"
	requestX11       = "x11-req"
	requestAgent     = "auth-agent-req@openssh.com"
	requestEOW       = "eow@openssh.com"
	requestFlow      = "xon-xoff"

	answerStatus = "exit-status"
	answerSignal = "exit-signal"
)

const subsystemSFTP = "sftp"

// session implements channels.ChannelCodec for a session channel.
type session struct {
	*codec
	terminal bool
	modes    string   // of the terminal
	env      []string // what was given, which decides what a command means
	begun    bool     // what the channel is for is known; only one request may say so
}

// Request implements channels.ChannelCodec.
func (s *session) Request(kind string, payload []byte) channels.Step {
	switch kind {
	case requestPty:
		return s.pty(kind, payload)
	case requestEnv:
		return s.variable(kind, payload)
	case requestShell, requestExec, requestSubsystem:
		if s.begun {
			return channels.Step{Do: channels.Refuse}
		}
		step := s.main(kind, payload)
		step.Main, step.Do = true, channels.Forward
		step.Then = func(ok bool) { s.begun = s.begun || ok }
		return step
	case requestWindow:
		var size struct{ Columns, Rows, Width, Height uint32 }
		if ssh.Unmarshal(payload, &size) != nil {
			return channels.Step{Request: s.malformed("request", kind)}
		}
		if !s.terminal {
			return channels.Step{Do: channels.Refuse}
		}
		step := channels.Step{Do: channels.Defer, Terminal: &engine.Terminal{Columns: size.Columns, Rows: size.Rows}}
		if s.begun {
			step.Do = channels.Echo
		}
		return step
	case requestX11, requestAgent:
		return s.forwarding(kind)
	case requestSignal, requestBreak:
		return channels.Step{Do: channels.Echo, Interrupts: true}
	case requestEOW:
		return channels.Step{Do: channels.Echo}
	case keepalive:
		return channels.Step{Do: channels.Grant}
	}
	return channels.Step{Do: channels.Refuse}
}

func (s *session) pty(kind string, payload []byte) channels.Step {
	var pty struct {
		Type          string
		Columns, Rows uint32
		Width, Height uint32
		Modes         string
	}
	if ssh.Unmarshal(payload, &pty) != nil {
		return channels.Step{Request: s.malformed("request", kind)}
	}
	if s.begun || s.terminal {
		return channels.Step{Do: channels.Refuse}
	}
	s.terminal, s.modes = true, pty.Modes
	return channels.Step{
		Do: channels.Defer, Needed: "terminal",
		Terminal: &engine.Terminal{Type: pty.Type, Columns: pty.Columns, Rows: pty.Rows},
	}
}

// harmless are variables that say which language people read, and in which
// colours.
func harmless(name string) bool {
	return name == "LANG" || name == "LANGUAGE" || strings.HasPrefix(name, "LC_") || name == "TERM" || name == "COLORTERM" || name == "NO_COLOR" || name == "TZ"
}

// variable is one of the environment. What may pass by the session's rule is text
// that programs print by, with nothing in it that any has been known to take for more.
func (s *session) variable(kind string, payload []byte) channels.Step {
	var v struct{ Name, Value string }
	if ssh.Unmarshal(payload, &v) != nil || v.Name == "" || strings.ContainsAny(v.Name, "=\x00") || strings.ContainsRune(v.Value, 0) {
		return channels.Step{Request: s.malformed("request", kind)}
	}
	if s.begun {
		return channels.Step{Do: channels.Refuse}
	}
	step := channels.Step{Do: channels.Defer}
	if !harmless(v.Name) || !plainText(v.Value) {
		step.Request = s.request("env", v.Name+"="+v.Value, verbEnv, v.Name)
		step.Then = func(bool) {} // the upstream is asked whether it takes it
	}
	s.env = append(s.env, v.Name+"="+v.Value)
	return step
}

func plainText(value string) bool {
	const longest = 128
	return len(value) <= longest && !strings.ContainsFunc(value, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_.@-+,:", r))
	})
}

// forwarding is what the upstream will open channels for.
func (s *session) forwarding(kind string) channels.Step {
	verb, channel := verbForwardX11, channelX11
	if kind == requestAgent {
		verb, channel = verbForwardAgent, channelAgent
	}
	if s.begun {
		return channels.Step{Do: channels.Refuse}
	}
	return channels.Step{Do: channels.Defer, Request: s.request("forward", kind, verb, ""), Then: func(ok bool) {
		if ok {
			s.may(channel, "", true)
		}
	}}
}

// main is what a channel is for.
func (s *session) main(kind string, payload []byte) channels.Step {
	if kind == requestShell {
		step := channels.Step{Request: s.with(s.request("shell", "shell", verbShell, "")), LineVerb: line.Verb}
		if s.terminal {
			step.Keys = keys{line.New([]byte(s.modes))}
		} else {
			step.Script = s.script
		}
		return step
	}
	var what struct{ Text string }
	if ssh.Unmarshal(payload, &what) != nil {
		return channels.Step{Request: s.malformed("request", kind)}
	}
	if kind == requestExec {
		return s.exec("exec", what.Text)
	}
	r := s.with(s.request("subsystem", what.Text, verbSubsystem, what.Text))
	r.Facts[factSubsystem] = what.Text
	step := channels.Step{Request: r}
	if what.Text == subsystemSFTP {
		step.Handler = sftp.Handler(s.codec.session)
	}
	return step
}

// keys implements channels.Keys.
type keys struct{ *line.Gate }

// Feed implements channels.Keys.
func (k keys) Feed(p []byte) (forward []byte, held *engine.Request) {
	forward, l := k.Gate.Feed(p)
	if l != nil {
		held = l.Request()
	}
	return forward, held
}

// with adds what decides the meaning of a request besides its text.
func (s *session) with(r *engine.Request) *engine.Request {
	r.Facts[factTerminal] = s.terminal
	if len(s.env) > 0 {
		env := slices.Clone(s.env)
		slices.Sort(env)
		r.Context = "environment " + strings.Join(env, " ")
	}
	return r
}

// exec is a command, as a shell on the host will read it.
func (s *session) exec(kind, text string) channels.Step {
	script := shell.Parse(text, shell.Options{})
	r := s.with(&engine.Request{Kind: kind, Text: text, Facts: script.Facts()})
	if c := script.Scp(); c != nil {
		// Its files are decided as they are named.
		r.Effects = []engine.Effect{{Verb: shell.VerbExec, Object: "scp"}}
		return channels.Step{Request: r, Handler: scp.Handler(command(c), s.codec.session)}
	}
	r.Effects, r.Raw = script.Effects(), script.Transfers()
	return channels.Step{Request: r}
}

// script is a shell's input, whole: `ssh host < script`. It is run as a command of
// that text, so that what was decided is what is run: of a shell's input programs
// in it could take a part.
func (s *session) script(input []byte) channels.Step {
	text := string(input)
	step := s.exec("script", text)
	step.Main, step.Do = true, channels.Forward
	step.Then = func(ok bool) { s.begun = s.begun || ok }
	step.Type, step.Payload = requestExec, ssh.Marshal(struct{ Text string }{text})
	return step
}

// command is what scp was started for.
func command(c *shell.Scp) scp.Command {
	out := scp.Command{Sends: c.Sends, Directory: c.Directory}
	var paths []string
	for _, w := range c.Paths {
		if !w.Known {
			return out
		}
		paths = append(paths, w.Text)
	}
	if len(paths) == 1 {
		out.Path, out.Exact = paths[0], c.Sends
		return out
	}
	// A slash at the end is taken off before the file is named.
	out.Path = path.Dir(path.Clean(paths[0]))
	for _, p := range paths {
		if path.Dir(path.Clean(p)) != out.Path {
			out.Path = ""
		}
	}
	return out
}

// Answer implements channels.ChannelCodec.
func (s *session) Answer(kind string, payload []byte, clean func([]byte) []byte) (out []byte, send bool, ended *channels.Ended) {
	switch kind {
	case answerStatus:
		var status struct{ Code uint32 }
		if ssh.Unmarshal(payload, &status) != nil {
			return nil, false, nil
		}
		return payload, true, &channels.Ended{ // four bytes, no more
			Tag: fmt.Sprintf("exit %d", status.Code), OK: status.Code == 0, Exit: &engine.Exit{Status: status.Code},
		}
	case answerSignal:
		var signal struct {
			Name     string
			Core     bool
			Message  string
			Language string
		}
		if ssh.Unmarshal(payload, &signal) != nil {
			return nil, false, nil
		}
		if !slices.Contains(signals, signal.Name) {
			signal.Name = "unknown@postern"
		}
		signal.Message, signal.Language = string(clean([]byte(signal.Message))), ""
		return ssh.Marshal(signal), true, &channels.Ended{Tag: "signal " + signal.Name, Exit: &engine.Exit{Signal: signal.Name}}
	case requestFlow:
		var flow struct{ Client bool }
		if ssh.Unmarshal(payload, &flow) != nil {
			return nil, false, nil
		}
		return ssh.Marshal(flow), true, nil
	case requestEOW:
		return nil, true, nil
	}
	return nil, false, nil
}

// signals are those that RFC 4254 (section 6.10) and OpenSSH have names for.
var signals = []string{"ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1", "USR2", "INFO@openssh.com", "SIG@openssh.com"}
