import streamlit as st

st.write("Hello,", st.context.headers["X-Auth-Username"])
