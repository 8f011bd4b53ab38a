package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kith/internal/config"
	"kith/proto"
)

// This file holds flags that refuse what no node would take: that is wrong usage,
// known before a node is asked.

// checkedFlag is a flag whose text is read by set, which gives an error that says
// what to write instead.
type checkedFlag struct {
	text, kind string
	set        func(string) error
	once       string // what to do instead of giving it again; empty: the last one counts
	given      bool
}

// String implements pflag.Value.
func (f *checkedFlag) String() string { return f.text }

// Type implements pflag.Value; help shows it.
func (f *checkedFlag) Type() string { return f.kind }

// Set implements pflag.Value.
func (f *checkedFlag) Set(text string) error {
	if f.given && f.once != "" {
		return fmt.Errorf("it is there already, with %q: %s", f.text, f.once)
	}
	if err := f.set(text); err != nil {
		return fmt.Errorf("%s", message(err))
	}
	f.text, f.given = text, true
	return nil
}

// textFlag adds a flag to cmd whose text check takes.
func textFlag(cmd *cobra.Command, name, otherwise, usage string, check func(string) error) *string {
	f := &checkedFlag{text: otherwise, kind: "string", set: check}
	cmd.Flags().Var(f, name, usage)
	return &f.text
}

// fileFlag adds a flag that names one file or directory, with its letter, if it has one.
// Of several all but the last would be left out, and nobody told.
func fileFlag(cmd *cobra.Command, to *string, name, letter, usage string) {
	f := &checkedFlag{text: *to, kind: "string", once: "name one, and run the command for each", set: func(text string) error {
		*to = text
		return nil
	}}
	cmd.Flags().VarP(f, name, letter, usage)
}

// namingFlag adds a flag that names something, once. Empty, as of a variable that is not
// set, it would be as if it were left out, and another directory looked into.
func namingFlag(cmd *cobra.Command, name, usage string) *string {
	f := &checkedFlag{kind: "string", once: "name one", set: func(text string) error {
		if text == "" {
			return errors.New("it is empty: name one, or leave the flag out")
		}
		return nil
	}}
	cmd.Flags().Var(f, name, usage)
	return &f.text
}

// choiceFlag adds a flag that takes one of a few words.
func choiceFlag(cmd *cobra.Command, name, otherwise, usage string, words ...string) *string {
	return textFlag(cmd, name, otherwise, usage, func(text string) error {
		if slices.Contains(words, text) {
			return nil
		}
		return fmt.Errorf("%s %q is unknown: use %s", name, text, strings.Join(words, " or "))
	})
}

// numberFlag adds a flag that takes a whole number, least to most.
func numberFlag(cmd *cobra.Command, name string, otherwise, least, most int, usage string) *int {
	n := otherwise
	f := &checkedFlag{text: strconv.Itoa(otherwise), kind: "int", set: func(text string) error {
		x, err := strconv.Atoi(text)
		if err != nil || x < least || x > most {
			return fmt.Errorf("use %d to %d", least, most)
		}
		n = x
		return nil
	}}
	cmd.Flags().Var(f, name, usage)
	return &n
}

// durationFlag adds a flag that takes a duration as kith.yaml does, days and weeks
// too.
func durationFlag(cmd *cobra.Command, name string, otherwise time.Duration, usage string) *time.Duration {
	d := otherwise
	f := &checkedFlag{text: otherwise.String(), kind: "duration", set: func(text string) (err error) {
		if d, err = config.ParseDuration(text); err == nil && d < 0 {
			err = errors.New("leave the minus sign out")
		}
		return err
	}}
	cmd.Flags().Var(f, name, usage)
	return &d
}

func unitFlag(cmd *cobra.Command) *string {
	return choiceFlag(cmd, "unit", proto.UnitIdentities, "what to count: identities or users", proto.UnitIdentities, proto.UnitUsers)
}

// afterAnswer is what --after does to a question about a few.
const afterAnswer = "wait until the answer includes this `POSITION`, as an acknowledgement gives it"

// afterFlag adds --after.
func afterFlag(cmd *cobra.Command, usage string) *string {
	return textFlag(cmd, "after", "", usage, func(text string) error {
		_, err := proto.ParsePosition(text)
		return err
	})
}

// dayFlags adds --from and --to. What it gives calls set with those that were
// passed.
func dayFlags(cmd *cobra.Command, first, last string) func(set func(name, day string)) {
	isDay := func(text string) error {
		_, err := proto.ParseDay(text)
		return err
	}
	from := textFlag(cmd, "from", "", first, isDay)
	to := textFlag(cmd, "to", "", last, isDay)
	return func(set func(name, day string)) {
		if *from != "" {
			set("from", *from)
		}
		if *to != "" {
			set("to", *to)
		}
	}
}
