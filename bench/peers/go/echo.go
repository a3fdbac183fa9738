package main

import (
	"net"
	"os"
)

func echo(params) values {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() {
		// Standard input closed: the harness has what it wanted.
		_, _ = os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}()
	answer(map[string]any{"port": listener.Addr().(*net.TCPAddr).Port})
	for {
		connection, err := listener.Accept()
		if err != nil {
			panic(err)
		}
		go serve(connection)
	}
}

func serve(connection net.Conn) {
	defer connection.Close()
	buffer := make([]byte, 65536)
	for {
		n, err := connection.Read(buffer)
		if err != nil {
			return
		}
		if _, err := connection.Write(buffer[:n]); err != nil {
			return
		}
	}
}
