import "./styles.css";

import { mount } from "svelte";

import App from "./App.svelte";
import { takeKeyFromAddress } from "./api/key";
import { session } from "./session.svelte";

takeKeyFromAddress();

const target = document.getElementById("app");
if (!target) throw new Error("index.html holds no element #app");
mount(App, { target });
void session.refresh();
