package main

import (
	"errors"
	"fmt"
	"os"

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
		Use:   "check [FILE]",
		Short: "Check a configuration, naming line and fix",
		Long: `Checks FILE, or kith.yaml here, without starting a node, and reads the files that it
names, such as secret_file and certificates: run it on the node's machine, as the node's user.
Whether ports are free and directories can be written is found out by kith serve.`,
		Example: "  kith config check /etc/kith.yaml",
		Args:    atMostOneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			path := fileOf(args)
			c, err := loadConfig(path)
			if err != nil {
				return err
			}
			if err := checkGateway(path, c); err != nil {
				return err
			}
			if err := checkFiles(path, c); err != nil {
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
	return c, inFile(path, err)
}

func inFile(path string, err error) error {
	var e *proto.Error
	if errors.As(err, &e) && e.Line > 0 {
		return fmt.Errorf("%s:%d:%d: %s", path, e.Line, e.Column, e.Message)
	}
	return err
}

// checkGateway has the gateway look at what it alone can judge, such as terms, as a
// node does. The error names the line of the client.
func checkGateway(path string, c config.Config) error {
	all := c.Clients
	for i := range all {
		c.Clients = all[i : i+1]
		if err := gatewayConfig(c).Validate(); err != nil {
			return placed(path, fmt.Sprintf("$.clients[%d].sensitive", i), message(err))
		}
	}
	c.Clients = all
	if err := gatewayConfig(c).Validate(); err != nil {
		return placed(path, "$.clients", message(err))
	}
	return nil
}

// placed puts file and line of a field in front of what is wrong with it.
func placed(path, field, what string) error {
	line, column := config.Place(path, field)
	return fmt.Errorf("%s:%d:%d: %s", path, line, column, what)
}

// checkFiles reads the files that the configuration at path names, as a node does.
// The error names the line.
func checkFiles(path string, c config.Config) error {
	for _, x := range namedFiles(c) {
		err := x.read()
		if err == nil {
			continue
		}
		return placed(path, x.field, message(err)+" (on this machine, as the user who asks)")
	}
	return nil
}

// namedFile is a field that names a file, and how a node reads it.
type namedFile struct {
	field string
	read  func() error
}

func namedFiles(c config.Config) []namedFile {
	readable := func(field, name string) namedFile {
		return namedFile{"$." + field, func() error {
			if name == "" {
				return nil
			}
			if _, err := os.ReadFile(name); err != nil {
				return proto.Errorf(proto.CodeInvalid, "cannot read %s: %w", field, err)
			}
			return nil
		}}
	}
	list := []namedFile{
		{"$.secret_file", func() error { _, err := readSecret(c.SecretFile); return err }},
		readable("tls.cert", c.TLS.Cert), readable("tls.key", c.TLS.Key),
		{"$.tls.cert", func() error { _, err := planeTLS(c.TLS); return err }},
	}
	if c.Cluster.Listen == "" {
		return list
	}
	for i, name := range c.Cluster.KeyFiles {
		list = append(list, namedFile{fmt.Sprintf("$.cluster.key_files[%d]", i), func() error { _, err := readKeys([]string{name}, nil); return err }})
	}
	return append(list, readable("cluster.ca", c.Cluster.CA), readable("cluster.cert", c.Cluster.Cert), readable("cluster.key", c.Cluster.Key),
		namedFile{"$.cluster.cert", func() error { _, err := nodeTLS(&c.Cluster); return err }})
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
