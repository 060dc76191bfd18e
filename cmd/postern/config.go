package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"
)

func (c *cli) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use: "check [FILE]", Short: "Say what is wrong with a configuration, all at once", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			file := c.config
			if len(args) == 1 {
				file = args[0]
			}
			out, err := c.daemonCheck(cmd.Context(), file)
			var failed *exec.ExitError
			if c.json && (err == nil || errors.As(err, &failed)) {
				said := strings.Split(strings.TrimSpace(string(out)), "\n")
				if err := c.out.print(map[string]any{"ok": err == nil, "file": file, "said": said}); err != nil {
					return err
				}
				if err != nil {
					return exitCode(1)
				}
				return nil
			}
			if errors.As(err, &failed) {
				os.Stderr.Write(out)
				return exitCode(1)
			}
			if err != nil {
				return err
			}
			_, err = c.out.Write(out)
			return err
		},
	}
}

func (c *cli) reloadCommand() *cobra.Command {
	return &cobra.Command{
		Use: "reload", Short: "Make the daemon read its configuration again", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			done, err := c.daemon().Reload(cmd.Context())
			if err != nil {
				return err
			}
			if c.json {
				return c.out.print(done)
			}
			for _, w := range done.Warnings {
				fmt.Fprintln(c.out, c.out.yellow("warning:"), w)
			}
			_, err = fmt.Fprintf(c.out, "generation %d is in force; %d sessions that it would not have begun were ended\n", done.Generation, done.Ended)
			return err
		},
	}
}

// placeholderLength is as random as a placeholder has to be: 24 characters of
// 36 are 124 bits.
const placeholderLength = 24

func (c *cli) placeholderCommand() *cobra.Command {
	var prefix string
	var length int
	cmd := &cobra.Command{Use: "placeholder", Short: "What agents hold in place of credentials"}
	mint := &cobra.Command{
		Use: "new", Short: "Make a random placeholder", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if length-len(prefix) < placeholderLength {
				return fmt.Errorf("a placeholder needs %d random characters: use --length %d or more", placeholderLength, placeholderLength+len(prefix))
			}
			p := prefix + randomText(length-len(prefix))
			if c.json {
				return c.out.print(map[string]string{"placeholder": p})
			}
			_, err := fmt.Fprintln(c.out, p)
			return err
		},
	}
	mint.Flags().StringVar(&prefix, "prefix", "", "what the real thing begins with, such as ghp_")
	mint.Flags().IntVar(&length, "length", 32, "how long it is")
	cmd.AddCommand(mint)
	return cmd
}

func randomText(n int) string {
	const alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
	out := make([]byte, 0, n)
	var b [1]byte
	for len(out) < n {
		rand.Read(b[:]) // never fails: crypto/rand ends the program first
		if int(b[0]) < 256/len(alphabet)*len(alphabet) {
			out = append(out, alphabet[int(b[0])%len(alphabet)])
		}
	}
	return string(out)
}
