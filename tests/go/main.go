// Renders Go templates as Ollama does: one JSON object a line in, one a line out.
//
// In: {"template": ..., "messages": [{"role": ..., "content": ...}], "today": "YYYY-MM-DD"}; out: {"text": ...} or {"error": ...}.
// Only text/template of the standard library; what Ollama adds around it is written out below.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"text/template"
)

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type question struct {
	Template string    `json:"template"`
	Messages []message `json:"messages"`
	Today    string    `json:"today"`
}

type answer struct {
	Text  string `json:"text"`
	Error string `json:"error,omitempty"`
}

// gather joins neighbours of one role, and all system texts, with an empty line between.
func gather(given []message) (string, []*message) {
	var system []string
	var joined []*message
	for i := range given {
		next := given[i]
		if next.Role == "system" {
			system = append(system, next.Content)
		}
		if n := len(joined); n > 0 && joined[n-1].Role == next.Role {
			joined[n-1].Content += "\n\n" + next.Content
			continue
		}
		joined = append(joined, &next)
	}
	return strings.Join(system, "\n\n"), joined
}

func render(q question) answer {
	functions := template.FuncMap{"currentDate": func(...string) string { return q.Today }}
	parsed, err := template.New("").Option("missingkey=zero").Funcs(functions).Parse(q.Template)
	if err != nil {
		return answer{Error: err.Error()}
	}
	system, messages := gather(q.Messages)
	var out strings.Builder
	err = parsed.Execute(&out, map[string]any{"System": system, "Messages": messages, "Response": ""})
	if err != nil {
		return answer{Error: err.Error()}
	}
	return answer{Text: out.String()}
}

func main() {
	lines := bufio.NewReaderSize(os.Stdin, 1<<20)
	answers := json.NewEncoder(os.Stdout)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var q question
			if err := json.Unmarshal(line, &q); err != nil {
				panic(err)
			}
			if err := answers.Encode(render(q)); err != nil {
				panic(err)
			}
		}
		if errors.Is(err, io.EOF) {
			return
		}
	}
}
