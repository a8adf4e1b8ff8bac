"""Many runs of one recipe: the sweep file, the store that workers share, the workers."""
