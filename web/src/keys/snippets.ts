// Lines to paste: the page's real address, the key just made or a placeholder, a model that is served.

export interface Snippet {
  readonly id: string;
  readonly name: string;
  readonly text: string;
}

export const KEY_PLACEHOLDER = "YOUR_API_KEY";

export function snippets(origin: string, key: string | null, model: string): Snippet[] {
  const base = `${origin}/v1`;
  const given = key ?? KEY_PLACEHOLDER;
  const name = JSON.stringify(model);
  const curlBody = JSON.stringify({ model, messages: [{ role: "user", content: "Hello" }], max_tokens: 64 }).replace(/'/g, "'\\''");
  return [
    { id: "curl", name: "curl", text: `curl ${base}/chat/completions \\\n  -H "Authorization: Bearer ${given}" \\\n  -H "Content-Type: application/json" \\\n  -d '${curlBody}'` },
    {
      id: "python",
      name: "Python",
      text: `# pip install openai\nfrom openai import OpenAI\n\nclient = OpenAI(base_url="${base}", api_key="${given}")\nanswer = client.chat.completions.create(\n    model=${name},\n    messages=[{"role": "user", "content": "Hello"}],\n    max_tokens=64,\n)\nprint(answer.choices[0].message.content)\nprint(answer.usage)`,
    },
    {
      id: "javascript",
      name: "JavaScript",
      text: `// npm install openai\nimport OpenAI from "openai";\n\nconst client = new OpenAI({ baseURL: "${base}", apiKey: "${given}" });\nconst answer = await client.chat.completions.create({\n  model: ${name},\n  messages: [{ role: "user", content: "Hello" }],\n  max_tokens: 64,\n});\nconsole.log(answer.choices[0].message.content);\nconsole.log(answer.usage);`,
    },
  ];
}
