package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"kith/internal/config"
	"kith/proto"
)

const configFile = "kith.yaml"

func newConfigCommand() *cobra.Command {
	cmd := asGroup(&cobra.Command{
		Use:     "config",
		Short:   "Write or check kith.yaml",
		Example: "  kith config init\n  kith config check",
	})
	cmd.AddCommand(newConfigInitCommand(), newConfigCheckCommand())
	return cmd
}

func newConfigInitCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "init [FILE]",
		Short:   "Write a commented kith.yaml with the defaults",
		Long:    "Writes a commented configuration with the defaults into FILE, or kith.yaml here. A\nfile that is there is left alone, and the command fails.",
		Example: "  kith config init\n  kith config init /etc/kith.yaml",
		Args:    atMostOneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			path := fileOf(args)
			if err := config.Init(path); err != nil {
				return err
			}
			printf(cmd, "wrote %s; next: kith key create --role admin --offline, then kith serve --config %s\n", path, path)
			return nil
		},
	}
}

func newConfigCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "check [FILE]",
		Short:   "Check a configuration, naming line and fix",
		Long:    "Checks FILE, or kith.yaml here, as a node would that starts with it: what is wrong is\nsaid with its line and what to do. No node is asked.",
		Example: "  kith config check /etc/kith.yaml",
		Args:    atMostOneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			path := fileOf(args)
			c, err := loadConfig(path)
			if err != nil {
				return err
			}
			if err := c.NeedKeys(); err != nil {
				cmd.PrintErrln("note: " + message(err))
			}
			printf(cmd, "%s is fine\n", path)
			return nil
		},
	}
}

// loadConfig puts file and line in front of what is wrong.
func loadConfig(path string) (config.Config, error) {
	c, err := config.Load(path)
	var e *proto.Error
	if errors.As(err, &e) && e.Line > 0 {
		return c, fmt.Errorf("%s:%d:%d: %s", path, e.Line, e.Column, e.Message)
	}
	return c, err
}

func atMostOneFile(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usagef("%s takes one file at most; got %d", cmd.CommandPath(), len(args))
	}
	return nil
}

func fileOf(args []string) string {
	if len(args) == 1 {
		return args[0]
	}
	return configFile
}
